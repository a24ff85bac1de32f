"""What is asked before runs are compared: what differs between them, and how many of each."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import QSignalBlocker, Signal
from PySide6.QtWidgets import QGridLayout, QWidget

from qlora_studio.config.unusual import LORA_OVER_FULL
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import ChoiceBox, NumberBox, PlainLabel, Popover

MOST_SEEDS = 10
_ASKED = (
    "These settings are trained again and again with one thing changed, one run after another. The table "
    "stands on Runs."
)


class CompareQuestion(Popover):
    """asked: what is compared, and how many runs of each."""

    asked = Signal(str, int)

    def __init__(self, anchor: QWidget, offered: Mapping[str, str], trains_all: bool) -> None:
        """offered: what may be compared -> words. trains_all: the learning rate that is set is that of all
        weights.
        """
        super().__init__(anchor, _ASKED, "Start", "Not now", name="train_compare")
        self._over = ChoiceBox(list(offered.items()), name="train_compare_over", label="What is changed")
        self._seeds = NumberBox(1, MOST_SEEDS, 1, name="train_compare_seeds", label="Runs of each")
        grid = QGridLayout()
        grid.setHorizontalSpacing(theme().px(8))
        for row, (words, field) in enumerate((("Changed", self._over), ("Runs of each", self._seeds))):
            label = PlainLabel(words)
            label.setBuddy(field)
            grid.addWidget(label, row, 0)
            grid.addWidget(field, row, 1)
        self.body.addLayout(grid)
        self.body.addWidget(
            PlainLabel(
                "Three or more, each with a seed of its own, say how sure a difference is.", "note", wrap=True
            )
        )
        words = f"All weights learn at 1/{LORA_OVER_FULL} of the learning rate that is set for the adapters."
        if trains_all:
            words = f"Adapters learn at {LORA_OVER_FULL} times the learning rate that is set for all weights."
        self._full = PlainLabel(words, "note", wrap=True, name="train_compare_full")
        self.body.addWidget(self._full)
        self._over.chosen.connect(self._show_full)
        self._show_full(self._over.value())
        self.confirmed.connect(self._on_confirmed)

    def _show_full(self, over: str) -> None:
        """What happens to the learning rate; it belongs to one of the choices."""
        self._full.setVisible(over == "finetuning")

    def _on_confirmed(self) -> None:
        with QSignalBlocker(self._seeds):
            self._seeds.interpretText()  # what is being typed counts
        self.asked.emit(self._over.value(), self._seeds.value())
