"""Which layers get an adapter: the real names of the chosen model's linear layers, to be ticked."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QCheckBox, QWidget

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.ui.widgets import PlainLabel, Popover
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.columns import Columns

ALL_LINEAR = "all-linear"
TICK_ONE = "Tick at least one."


@dataclass(frozen=True)
class Target:
    """A linear layer as the settings name it. sizes: in and out, the same in each of `layers` layers."""

    name: str
    words: str


def targets(shape: ModelShape) -> list[Target]:
    """By the last part of the name where that says which one is meant: `q_proj`, else `attn.c_proj`."""
    found: dict[str, Target] = {}
    leaves = [_without_numbers(name) for name, _, _ in shape.all_linears]
    for path, (name, out, inner) in zip(leaves, shape.all_linears, strict=True):
        leaf = name.rpartition(".")[2]
        means_one = len({other for other in leaves if other.rpartition(".")[2] == leaf}) == 1
        short = leaf if means_one else path
        found.setdefault(short, Target(short, f"{inner:,} to {out:,}"))
    return list(found.values())


class TargetPicker(Popover):
    """chosen: "all-linear", or the names that are ticked."""

    chosen = Signal(object)

    def __init__(self, anchor: QWidget, shape: ModelShape, now: str | tuple[str, ...]) -> None:
        words = f"Layers that get an adapter, in each of the {shape.all_layers} layers of the model"
        super().__init__(anchor, words, "Use these", "Cancel", name="train_target_picker")
        self._boxes: dict[str, QCheckBox] = {}
        ticks = Columns(most=2, least=150, gap=12, line_gap=2)
        for target in targets(shape):
            box = QCheckBox(target.name)
            box.setObjectName(f"train_target_{target.name.replace('.', '_')}")
            box.setAccessibleName(target.name)
            box.setAccessibleDescription(target.words)
            box.setToolTip(target.words)
            box.setChecked(now == ALL_LINEAR or target.name in now)
            box.toggled.connect(self._on_toggled)
            self._boxes[target.name] = box
            ticks.addWidget(box)
        self._reason = PlainLabel(TICK_ONE, "note")
        self._reason.set_tone("warn")
        self.body.addLayout(ticks)
        self.body.addWidget(self._reason)
        self.confirmed.connect(self._on_confirmed)
        self._on_toggled()

    def _ticked(self) -> tuple[str, ...]:
        return tuple(name for name, box in self._boxes.items() if box.isChecked())

    def _on_toggled(self) -> None:
        self._reason.setVisible(not self._ticked())
        allow(self.yes, "" if self._ticked() else TICK_ONE)

    def _on_confirmed(self) -> None:
        ticked = self._ticked()
        self.chosen.emit(ALL_LINEAR if len(ticked) == len(self._boxes) else ticked)


def _without_numbers(name: str) -> str:
    """Experts are many layers of one name."""
    return ".".join(part for part in name.split(".") if not part.isdigit())
