"""The answers of all checkpoints beside each other: a row a prompt, a column a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt
from PySide6.QtWidgets import QHeaderView

from qlora_studio.plain_text import visible_line, visible_text
from qlora_studio.runs.samples import Sample
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, LinkButton, TableView, plain_tooltip

NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex

_LONGEST_REPLY = 1_500  # characters that are shown
_COLUMN_WIDTH = 230  # px


class AllSamplesCard(Card):
    """In place of the charts. back: shows them again."""

    def __init__(self) -> None:
        super().__init__("Living samples", "every checkpoint", name="monitor_all_samples_card")
        self.model = SamplesTable(self)
        self.back = LinkButton("Charts", "chart-line", name="monitor_samples_back")
        self.add_to_head(self.back)
        self._table = TableView(name="monitor_samples_table", label="Answers at every checkpoint")
        self._table.setModel(self.model)
        self._table.setWordWrap(True)
        self._table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self._table.horizontalHeader().setDefaultSectionSize(theme().px(_COLUMN_WIDTH))
        self.body.addWidget(self._table, 1)

    def show_samples(self, samples: Sequence[Sample]) -> None:
        """Others in place of what it showed."""
        self.model.show(samples)


class SamplesTable(QAbstractTableModel):
    """The first column holds the prompts."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._prompts: list[str] = []
        self._steps: list[int] = []
        self._replies: dict[tuple[str, int], str] = {}

    def show(self, samples: Sequence[Sample]) -> None:
        """All of them."""
        replies = {(sample.prompt, sample.step): sample.reply for sample in samples}
        if replies == self._replies:
            return
        self.beginResetModel()
        self._replies = replies
        self._prompts = list(dict.fromkeys(sample.prompt for sample in samples))
        self._steps = sorted({sample.step for sample in samples})
        self.endResetModel()

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self._prompts)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else 1 + len(self._steps)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return "Prompt" if section == 0 else f"Step {self._steps[section - 1]:,}"
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        prompt = self._prompts[index.row()]
        text = prompt if index.column() == 0 else self._reply(prompt, index.column() - 1)
        match role:
            case Qt.ItemDataRole.DisplayRole if index.column() == 0:
                return visible_line(text, 300)
            case Qt.ItemDataRole.DisplayRole:
                return visible_text(text, _LONGEST_REPLY)
            case Qt.ItemDataRole.ToolTipRole:
                return plain_tooltip(text)
            case Qt.ItemDataRole.TextAlignmentRole:
                return Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop
            case Qt.ItemDataRole.ForegroundRole if index.column() == 0:
                return theme().color("muted")
        return None

    def _reply(self, prompt: str, place: int) -> str:
        return self._replies.get((prompt, self._steps[place]), "")
