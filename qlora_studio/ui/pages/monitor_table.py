"""The curves as numbers: for who reads a table rather than a chart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from qlora_studio.runs.metric_lines import EvaluationLine
from qlora_studio.state.curves import Points, no_points
from qlora_studio.ui import figures
from qlora_studio.ui.pages.monitor_chart import in_powers
from qlora_studio.ui.widgets import Card, LinkButton, TableView

NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex
Words = Callable[[Points, int], str]


class TableCard(Card):
    """In place of the charts. back: shows them again."""

    def __init__(self) -> None:
        super().__init__("All steps", "one row each", name="monitor_table_card")
        self.model = PointsTable(self)
        self.back = LinkButton("Charts", "chart-line", name="monitor_as_charts", tip="Show the charts (T)")
        self.add_to_head(self.back)
        self.table = TableView(name="monitor_table", label="Measurements of every step")
        self.table.setModel(self.model)
        self.table.set_widths(66, 86, 76, 86, 86, 100, 108, 78)
        self.body.addWidget(self.table, 1)

    def show_points(self, points: Points) -> None:
        """While the last row is in sight it stays so."""
        bar = self.table.verticalScrollBar()
        at_end = bar.value() == bar.maximum()
        self.model.show(points)
        if at_end:
            self.table.scrollToBottom()


class PointsTable(QAbstractTableModel):
    """A row a step; a million are no more work than those in sight."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._points = no_points()
        self._evaluations: dict[int, EvaluationLine] = {}

    def show(self, points: Points) -> None:
        """More rows, or others."""
        before = len(self._points)
        if points.rewinds != self._points.rewinds or len(points) < before:
            self.beginResetModel()
            self._take(points)
            self.endResetModel()
        elif len(points) > before:
            self.beginInsertRows(NO_PARENT, before, len(points) - 1)
            self._take(points)
            self.endInsertRows()
        else:
            self._take(points)

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self._points)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation == Qt.Orientation.Vertical:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section][0]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            name, words = COLUMNS[index.column()]
            if name == "Evaluation":
                step = int(self._points.steps[index.row()])
                return evaluation_words(self._evaluations[step]) if step in self._evaluations else ""
            return words(self._points, index.row())
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def _take(self, points: Points) -> None:
        self._points = points
        self._evaluations = {line.step: line for line in points.evaluations}


def evaluation_words(line: EvaluationLine) -> str:
    """Its loss, and the right answers where they were counted."""
    right = f" · {figures.share(line.right / line.questions)} right" if line.right is not None else ""
    return f"{figures.loss(line.loss)}{right if line.questions else ''}"


def _number(name: str, form: str) -> Words:
    def words(points: Points, row: int) -> str:
        value = float(getattr(points, name)[row])
        return format(value, form) if math.isfinite(value) else "not a number"

    return words


COLUMNS: tuple[tuple[str, Words], ...] = (
    ("Step", lambda points, row: f"{points.steps[row]:,}"),
    ("Time", lambda points, row: figures.duration(float(points.elapsed_s[row]))),
    ("Loss", _number("loss", ".3f")),
    ("Smoothed", _number("smoothed", ".3f")),
    ("Evaluation", lambda points, row: ""),
    ("Learning rate", lambda points, row: in_powers(float(points.learning_rate[row]))),
    ("Gradient norm", _number("grad_norm", ".3f")),
    ("Tokens/s", _number("tokens_per_second", ",.0f")),
    ("Memory", lambda points, row: figures.in_gib(float(points.memory_total[row]))),
)
