"""What differs between the chosen runs, setting by setting, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QHeaderView

from qlora_studio.plain_text import visible_line
from qlora_studio.state.run_differences import Difference, short_names
from qlora_studio.state.runs import Compared
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, LinkButton, PlainLabel, TableView, plain_tooltip
from qlora_studio.ui.widgets.line_sample import line_pixmap

NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex


class DiffCard(Card):
    """copied: the table as text was asked for. only_changed: all settings, or those that differ."""

    copied = Signal()
    only_changed = Signal()

    def __init__(self) -> None:
        super().__init__("What differs", name="runs_diff_card")
        self.model = DiffTable(self)
        self._copy = LinkButton("Copy", "copy", name="runs_diff_copy")
        self.add_to_head(self._copy)
        self._table = TableView(name="runs_diff", label="What differs between the chosen runs")
        self._table.setModel(self.model)
        self._table.setSelectionMode(TableView.SelectionMode.SingleSelection)
        head = self._table.horizontalHeader()
        head.setStretchLastSection(False)
        self._waiting = PlainLabel("Choose two runs or more to see what differs.", "muted", wrap=True)
        self._waiting.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._only = QCheckBox("Differences only")
        self._only.setObjectName("runs_diff_only")
        self._only.setChecked(True)
        self._same = PlainLabel("", "note")
        self.body.addWidget(self._waiting, 1)
        self.body.addWidget(self._table, 1)
        foot = QHBoxLayout()
        foot.addWidget(self._only)
        foot.addStretch()
        foot.addWidget(self._same)
        self.body.addLayout(foot)
        self._copy.clicked.connect(self.copied)
        self._only.toggled.connect(lambda _: self.only_changed.emit())
        theme().changed.connect(self._set_widths)

    @property
    def only(self) -> bool:
        """Whether settings that are the same everywhere are left out."""
        return self._only.isChecked()

    def show_differences(self, runs: Sequence[Compared], rows: Sequence[Difference], same: str) -> None:
        """rows: those to be shown."""
        settings = sum(bool(row.key) for row in rows)
        several = len(runs) > 1
        counted = "no setting" if not settings else "1 setting" if settings == 1 else f"{settings:,} settings"
        self.set_note(f"{counted}, then results" if several else "")
        self._same.setText(same)
        self._waiting.setVisible(not several)
        self._table.setVisible(several)
        self._copy.setVisible(several)
        self._only.setVisible(several)
        self.model.show(runs, rows)
        self._set_widths()

    def _set_widths(self) -> None:
        head = self._table.horizontalHeader()
        for column in range(self.model.columnCount()):
            mode = QHeaderView.ResizeMode.Stretch if column else QHeaderView.ResizeMode.ResizeToContents
            head.setSectionResizeMode(column, mode)
        head.setMinimumSectionSize(theme().px(70))


class DiffTable(QAbstractTableModel):
    """A row a setting, a column a run."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.rows: list[Difference] = []
        self.names: list[str] = []  # as short as they can be told apart
        self._full_names: list[str] = []
        self._series: list[int] = []

    def show(self, runs: Sequence[Compared], rows: Sequence[Difference]) -> None:
        """Others in place of what it showed."""
        self.beginResetModel()
        self.rows = list(rows)
        self._full_names = [run.run.name for run in runs]
        self.names = short_names(self._full_names)
        self._series = [run.series for run in runs]
        self.endResetModel()

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else 1 + len(self.names)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation == Qt.Orientation.Vertical:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return "Setting" if section == 0 else visible_line(self.names[section - 1], 200)
        if role == Qt.ItemDataRole.ToolTipRole and section:
            return plain_tooltip(self._full_names[section - 1])
        if role == Qt.ItemDataRole.DecorationRole and section:
            return self._line(section)
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row, column = self.rows[index.row()], index.column()
        marked = column > 0 and row.marked[column - 1]
        match role:
            case Qt.ItemDataRole.DisplayRole if column:
                return visible_line(row.words()[column - 1], 300)
            case Qt.ItemDataRole.ToolTipRole if column:
                return plain_tooltip(row.words()[column - 1])
            case Qt.ItemDataRole.DisplayRole:
                return row.label
            case Qt.ItemDataRole.FontRole if row.head or marked:
                return theme().font("label", 700 if marked else 600)
            case Qt.ItemDataRole.ForegroundRole if row.best and marked:
                return theme().color("ok")
            case Qt.ItemDataRole.ForegroundRole if not column and not row.head:
                return theme().color("muted")
        return None

    def _line(self, section: int) -> QPixmap:
        return line_pixmap(self._series[section - 1], 2.2)
