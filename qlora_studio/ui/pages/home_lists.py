"""Home's lists: the newest runs, and what stands ready to train with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QSize, Qt, Signal
from PySide6.QtGui import QPalette
from PySide6.QtWidgets import QHeaderView, QStyledItemDelegate, QStyleOptionViewItem, QVBoxLayout

from qlora_studio.plain_text import visible_line
from qlora_studio.state.home import Found, RecentRuns
from qlora_studio.ui import figures
from qlora_studio.ui.icons import icon, tone_color
from qlora_studio.ui.run_words import state_word
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, LinkButton, PlainLabel, TableView, empty_layout
from qlora_studio.ui.widgets.rows import RowButton

if TYPE_CHECKING:
    from qlora_studio.runs.history import RunSummary

_NAME, _STATE, _LOSS, _AGE = range(4)


class RecentCard(Card):
    """The five newest runs; a broken one is a row that says why (R6)."""

    def __init__(self, runs: RecentRuns) -> None:
        super().__init__("Recent runs", name="home_recent_card")
        self.all_runs = LinkButton("All runs", name="home_all_runs")
        self.table = TableView(name="home_recent", label="Recent runs")
        self._empty = PlainLabel("No run yet. The first one shows here while it trains.", "muted")
        self._runs = runs
        self.add_to_head(self.all_runs)
        self.table.setModel(runs)
        self.table.setItemDelegate(_RunCells(self.table))
        self.table.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        head = self.table.horizontalHeader()
        head.setStretchLastSection(False)
        head.setSectionResizeMode(_NAME, QHeaderView.ResizeMode.Stretch)
        self.body.addWidget(self._empty)
        self.body.addWidget(self.table)
        theme().changed.connect(self._fit)
        runs.modelReset.connect(self._fit)
        self._fit()

    def show_found(self, found: Found | None) -> None:
        self._empty.setVisible(found is not None and not self._runs.runs)
        self.table.setVisible(bool(self._runs.runs))
        self.all_runs.setVisible(bool(self._runs.runs))

    def _fit(self) -> None:
        """As high as its rows: the page scrolls, not the list."""
        size = theme().px(theme().size.row_height)
        self.table.setFixedHeight(size * self._runs.rowCount() + theme().px(36) + 6)
        for column, width in ((_STATE, 150), (_LOSS, 100), (_AGE, 120)):
            self.table.setColumnWidth(column, theme().px(width))


class _RunCells(QStyledItemDelegate):
    """State as icon and word, figures tabular and at the right."""

    def initStyleOption(
        self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        super().initStyleOption(option, index)
        row: RunSummary = index.data(Qt.ItemDataRole.UserRole)
        run = row.run
        match index.column():
            case 0:
                option.text = visible_line(row.name)
                option.font.setWeight(option.font.Weight.DemiBold)
            case 1:
                self._show_state(option, row)
            case 2:
                loss = run.state.evaluation_loss if run is not None else None
                option.text = figures.loss(loss)
            case 3:
                option.text = figures.ago(run.state.updated) if run is not None and run.state.updated else ""

    def _show_state(self, option: QStyleOptionViewItem, row: RunSummary) -> None:
        word = state_word(row.state, row.run.state.cause if row.run is not None else "")
        option.text = word.word
        option.icon = icon(word.icon_name, tone_color(word.tone))
        option.decorationSize = QSize(theme().px(16), theme().px(16))
        option.features |= QStyleOptionViewItem.ViewItemFeature.HasDecoration
        for role in (QPalette.ColorRole.Text, QPalette.ColorRole.HighlightedText):
            option.palette.setColor(role, theme().color(tone_color(word.tone)))


class ShelfCard(Card):
    """Four things to train on or with. chosen: the path of the one that was clicked, or "sample"."""

    chosen = Signal(object)

    def __init__(self, title: str, name: str, add_name: str, add_words: str) -> None:
        super().__init__(title, name=name)
        self._key = name
        self.add = LinkButton(add_words, "plus", name=add_name)
        self.add_to_head(self.add)
        self._rows = QVBoxLayout()
        self._rows.setSpacing(theme().px(2))
        self.body.addLayout(self._rows)
        self.body.addWidget(PlainLabel("or drop it anywhere in the window", "note"))
        self.body.addStretch()

    def show_entries(self, entries: Sequence[tuple[str, str, str]], icon_name: str) -> None:
        """entries: path, name, note."""
        empty_layout(self._rows)
        for at, (path, words, note) in enumerate(entries):
            row = RowButton(icon_name, words, note, name=f"{self._key}_{at}")
            row.clicked.connect(lambda _=False, path=path: self.chosen.emit(path))
            self._rows.addWidget(row)
