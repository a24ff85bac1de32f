"""The list of rows: search, filters, and one line for each row."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, Qt, QTimer, Signal
from PySide6.QtGui import QFontMetrics
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout

from qlora_studio.state.data import ALL, FLAGGED, LONG, SEARCH, DataState
from qlora_studio.ui.pages.tinted_cells import TintedCells
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, ChoiceChip, LinkButton, PlainLabel, SearchBox, TableView

_FLAG, _CELL_PADDING, _EDGE = 88, 26, 3  # px: column of flags, around a number, around the card
LONG_WORDS = {"drop": "Dropped", "truncate": "Cut", "stop": "Too long"}


class RowsCard(Card):
    """chosen: the place in the list that a person went to."""

    chosen = Signal(int)

    def __init__(self, state: DataState) -> None:
        super().__init__(name="data_list")
        self.setAccessibleName("Rows")
        self._state = state
        self.search = SearchBox("Search the rows", name="data_search")
        self._chips = {
            ALL: ChoiceChip("All", name="data_filter_all"),
            FLAGGED: ChoiceChip("Flagged", name="data_filter_flagged"),
            LONG: ChoiceChip("Cut", name="data_filter_long"),
        }
        self.table = TableView(name="data_rows", label="Rows of the data")
        self._foot = PlainLabel("", "note", wrap=True, name="data_place")
        self._all = LinkButton("Show all", name="data_show_all")
        self._filter = ALL
        self._typed = QTimer(self, interval=250, singleShot=True)
        self._build()
        self._bind()

    def refresh(self, too_long: str) -> None:
        """too_long: what happens to rows over the limit; "" where nothing does."""
        state = self._state
        flagged, long = len(state.table.flagged_rows()), len(state.table.long_rows())
        self._chips[FLAGGED].setText(f"Flagged {flagged:,}")
        self._chips[FLAGGED].setVisible(bool(flagged) or state.filter == FLAGGED)
        self._chips[LONG].setText(f"{LONG_WORDS.get(too_long, 'Cut')} {long:,}")
        self._chips[LONG].setVisible(bool(long) or state.filter == LONG)
        for name, chip in self._chips.items():
            chip.setChecked(name == state.filter)
        if self._filter == SEARCH != state.filter:
            self.search.blockSignals(True)
            self.search.clear()
            self.search.blockSignals(False)
        self._filter = state.filter
        self._all.setVisible(state.filter not in self._chips)
        self._foot.setText(self._foot_words())
        self._fit_columns()

    def go(self, by: int) -> None:
        """To the next or last row of the list."""
        position = self.table.currentIndex().row() + by
        if 0 <= position < self._state.table.rowCount():
            self._put_cursor(position)

    def show_chosen(self) -> None:
        """Marks the row that is shown, where it stands in this order; else goes to the first."""
        row = self._state.row.row
        position = None if row is None else self._state.table.position_of(row)
        if self._state.table.rowCount():
            self._put_cursor(position or 0)

    def _put_cursor(self, position: int) -> None:
        self.table.setCurrentIndex(self._state.table.index(position, 0))

    def _foot_words(self) -> str:
        state, shown = self._state, self._state.table.rowCount()
        total = state.report.conversations if state.report else 0
        if state.filter == SEARCH:
            if state.table.searching:
                return "Searching"
            return f"{shown:,} of {total:,} rows hold “{state.filter_words[:60]}”"
        if state.filter_words:
            return f"Shown: {state.filter_words}"
        position = self.table.currentIndex().row()
        if position < 0:
            return f"{shown:,} rows"
        return f"Number {position + 1:,} of {shown:,}"

    # Layout and wiring ------------------------------------------------------------------------------

    def _build(self) -> None:
        chips = QHBoxLayout()
        chips.setSpacing(theme().px(6))
        group = QButtonGroup(self)
        for chip in self._chips.values():
            group.addButton(chip)
            chips.addWidget(chip)
        chips.addStretch()
        self.table.setModel(self._state.table)
        self.table.setItemDelegate(TintedCells(self.table))
        self.table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        foot = QHBoxLayout()
        foot.addWidget(self._foot, 1)
        foot.addWidget(self._all)
        self.body.addWidget(self.search)
        self.body.addLayout(chips)
        self.body.addWidget(self.table, 1)
        self.body.addLayout(foot)
        self._fit_columns()

    def _bind(self) -> None:
        self.search.textChanged.connect(lambda: self._typed.start())
        self.search.returnPressed.connect(self._on_typed)
        self._typed.timeout.connect(self._on_typed)
        for name, chip in self._chips.items():
            chip.clicked.connect(lambda checked, name=name: self._state.show(name))
        self._all.clicked.connect(lambda: self._state.show(ALL))
        self.table.selectionModel().currentRowChanged.connect(self._on_row)
        self._state.table.modelReset.connect(self._on_reset)
        theme().changed.connect(self._fit_columns)

    def _on_typed(self) -> None:
        self._typed.stop()
        self._state.search(self.search.text())

    def _on_row(self, current: QModelIndex) -> None:
        if current.isValid():
            self.chosen.emit(current.row())
            self._foot.setText(self._foot_words())

    def _on_reset(self) -> None:
        self._fit_columns()
        self.show_chosen()

    def wanted_width(self) -> int:
        """px that the columns and the card around them take."""
        head, around = self.table.horizontalHeader(), theme().size.card_padding[0]
        numbers = sum(head.sectionSize(column) for column in range(head.count() - 1))
        bar = self.table.verticalScrollBar().sizeHint().width()
        return numbers + theme().px(_FLAG) + bar + 2 * (theme().px(around) + _EDGE)

    def _fit_columns(self) -> None:
        """As wide as the largest number."""
        metrics, table = QFontMetrics(theme().font("label")), self._state.table
        for column, largest in enumerate(table.largest()[: table.columnCount() - 1]):
            number = metrics.horizontalAdvance(f"{largest:,}") + theme().px(_CELL_PADDING)
            title = self.table.horizontalHeader().sectionSizeHint(column)
            self.table.setColumnWidth(column, max(number, title))
