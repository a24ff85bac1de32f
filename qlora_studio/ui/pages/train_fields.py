"""One field for each setting, built from what the setting says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QWidget

from qlora_studio.config.adapter_layers import ALL_LAYERS
from qlora_studio.config.setting import Field
from qlora_studio.state.draft import RunDraft
from qlora_studio.ui.figures import THIN
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import ChoiceBox, FormRow, TextBox, TypedNumber, set_property
from qlora_studio.ui.widgets.fields import ResetButton

CHOOSE, CHOSEN = "choose", "chosen"  # entries of a list that are no value of the setting
ENCODINGS = ("data.encoding", "data.validation_encoding")
NEW_ADAPTER = "A new adapter"
HELD_OUT = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)


class SettingField(QObject):
    """Keeps one widget and one key of the draft equal, in both directions.

    looked_at: the key, when the person hovers or focuses it
    choosing:  the person wants to choose among what the page knows
    on_line:   the way back to the default stands on one line with the field, which has no label
    """

    looked_at = Signal(str)
    choosing = Signal(str)

    def __init__(self, draft: RunDraft, key: str, parent: QWidget, *, on_line: bool = False) -> None:
        super().__init__(parent)
        self.key = key
        self._draft = draft
        self._on_line = on_line
        self._problem = ""
        self._planned = ""
        self._field: Field = draft.fields[key]
        self.widget, self._show = self._build()
        self.widget.setToolTip("")
        self.widget.setAccessibleDescription(self._field.setting.help)
        self.widget.installEventFilter(self)
        self.row: FormRow | LineRow = self._in_row()
        draft.changed.connect(self.refresh)
        draft.refused.connect(self._on_refused)
        self.refresh()

    def refresh(self) -> None:
        """Shows what the draft holds; what it refused stays as it was typed."""
        value, refusal = self._draft.value(self.key), self._draft.refusals.get(self.key, "")
        if not refusal:
            self._show(value)
        default = self._draft.default(self.key)
        same = value == default and not refusal
        self.row.set_changed(None if same else in_words(self._field, default))
        self.row.set_problem(self._problem or refusal)

    def show_problem(self, words: str) -> None:
        """Under the field, until it is mended; empty: there is none."""
        if words != self._problem:
            self._problem = words
            self.row.set_problem(words or self._draft.refusals.get(self.key, ""))

    def show_planned(self, layers: int, of: int) -> None:
        """What "Auto" comes to now."""
        planned = f"Auto: {layers} of {of} layers" if of else ""
        if planned != self._planned:
            self._planned = planned
            self.refresh()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() in (QEvent.Type.FocusIn, QEvent.Type.Enter):
            self.looked_at.emit(self.key)
        return False

    def _in_row(self) -> FormRow | LineRow:
        name, label = f"train_reset_{_name(self.key)}", self._field.setting.label
        if self._on_line or isinstance(self.widget, QCheckBox):
            line = LineRow(label, self.widget, key_name=name)
            line.reset.connect(self._on_reset)
            return line
        row = FormRow(label, self.widget, key_name=name)
        row.reset.connect(self._on_reset)
        return row

    def _build(self) -> tuple[QWidget, Callable[[Any], None]]:
        setting, name = self._field.setting, f"train_{_name(self.key)}"
        if self.key in _BUILDERS:
            return _BUILDERS[self.key](self, name)
        if self._field.kind is bool:
            box = QCheckBox(setting.label)
            box.setObjectName(name)
            box.setAccessibleName(setting.label)
            box.clicked.connect(self._set)
            return box, box.setChecked
        if setting.choices:
            return self._choice(name, list(setting.choices.items()))
        if self._field.kind is int:
            low, high = int(setting.minimum or 0), int(setting.maximum or 2**31 - 1)
            return self._number(name, low, high, step=1)
        step = 0.05 if (setting.maximum or 1) <= 1 else 0.5
        return self._number(name, float(setting.minimum or 0), float(setting.maximum or 1e9), step=step)

    def _number(
        self, name: str, low: float, high: float, *, step: float
    ) -> tuple[QWidget, Callable[[Any], None]]:
        label, unit = self._field.setting.label, self._field.setting.unit
        box = TypedNumber(low, high, self._field.default, name=name, label=label, step=step, unit=unit)
        box.entered.connect(self._set)
        box.unreadable.connect(self._on_unreadable)
        return box, box.setValue

    def _choice(self, name: str, choices: list[tuple[str, str]]) -> tuple[QWidget, Callable[[Any], None]]:
        elide = Qt.TextElideMode.ElideRight if self.key in ENCODINGS else Qt.TextElideMode.ElideMiddle
        box = ChoiceBox(choices, name=name, label=self._field.setting.label, elide=elide)
        box.chosen.connect(self._set)
        return box, box.set_value

    def _learning_rate(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        """Typed as one writes it: 0.0002 or 2e-4."""
        box = TextBox(name=name, label=self._field.setting.label)

        def read() -> None:
            try:
                self._set(float(box.text().strip().replace(",", ".")))
            except ValueError:
                self._draft.refuse(self.key, f"{box.text()!r} is no number; write 2e-4 or 0.0002.")

        box.editingFinished.connect(read)
        return box, lambda value: box.setText(small_number(value))

    def _recompute(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        """Auto, none, all, or a number of layers that a file brought."""
        choices = list(self._field.setting.choices.items())
        box = ChoiceBox(choices, name=name, label=self._field.setting.label)
        box.chosen.connect(lambda value: self._set(int(value) if value.isdigit() else value))

        def show(value: str | int) -> None:
            numbered = [(str(value), f"{value} layers")] if isinstance(value, int) else []
            named = [
                (item, self._planned or words) if item == "auto" else (item, words) for item, words in choices
            ]
            box.set_choices([*named, *numbered])
            box.set_value(str(value))

        return box, show

    def _targets(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        """All, or those that are ticked in a list of the model's own."""
        choices = [*self._field.setting.choices.items(), (CHOOSE, "Choose…")]
        box = ChoiceBox(choices, name=name, label=self._field.setting.label)

        def show(value: str | tuple[str, ...]) -> None:
            some = isinstance(value, tuple) or value not in self._field.setting.choices
            chosen = [(CHOSEN, ", ".join(value) if isinstance(value, tuple) else value)] if some else []
            box.set_choices([*chosen, *choices])
            box.set_value(CHOSEN if some else str(value))

        box.chosen.connect(self._choose)
        return box, show

    def _start(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        return self._path(name, NEW_ADAPTER, "Choose a run or folder…", start_name)

    def _questions(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        return self._path(name, "None", "Choose a file…", lambda file: Path(file).name)

    def _path(
        self, name: str, nothing: str, choose_one: str, shown: Callable[[str], str]
    ) -> tuple[QWidget, Callable[[Any], None]]:
        """None, or a path that was chosen. nothing, choose_one: what these two entries say"""
        choices = [("", nothing), (CHOOSE, choose_one)]
        box = ChoiceBox(choices, name=name, label=self._field.setting.label)

        def show(value: str) -> None:
            box.set_choices([*([(value, shown(value))] if value else []), *choices])
            box.set_value(value)

        box.chosen.connect(self._choose)
        return box, show

    def _choose(self, value: str) -> None:
        """An entry of a list, or that another one is to be chosen elsewhere."""
        if value == CHOOSE:
            self.refresh()
            self.choosing.emit(self.key)
        elif value != CHOSEN:
            self._set(value)

    def _layers(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        """ "all", or numbers and ranges."""
        box = TextBox(name=name, label=self._field.setting.label)
        box.editingFinished.connect(lambda: self._set(box.text().strip().lower() or ALL_LAYERS))
        return box, box.setText

    def _numbers_by_name(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        """Written as "q_proj=16, down_proj=128"; empty: none."""
        example = "q_proj=16, down_proj=128"
        box = TextBox(name=name, label=self._field.setting.label, placeholder="none")

        def read() -> None:
            pairs = [part.split("=") for part in box.text().split(",") if part.strip()]
            try:
                values = {key.strip(): int(number) for key, number in pairs}
            except ValueError:
                self._draft.refuse(self.key, f"write it as {example}.")
                return
            self._set(values)

        def show(values: Mapping[str, int]) -> None:
            box.setText(numbers_by_name(values))
            box.setCursorPosition(0)  # the beginning of what is longer than the box

        box.editingFinished.connect(read)
        return box, show

    def _held_out(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        """A share, or the file that a settings file names."""
        box = ChoiceBox([], name=name, label=self._field.setting.label)
        box.chosen.connect(lambda value: self._set(float(value) if _is_number(value) else value))

        def show(value: float | str) -> None:
            shares = sorted({*HELD_OUT, value}) if isinstance(value, float | int) else HELD_OUT
            choices = [
                (str(float(share)), f"{share * 100:g}{THIN}% of the rows" if share else "None")
                for share in shares
            ]
            box.set_choices([*choices, *([(value, value)] if isinstance(value, str) else [])])
            box.set_value(str(float(value)) if isinstance(value, float | int) else value)

        return box, show

    def _set(self, value: Any) -> None:
        self._draft.set(self.key, value)

    def _on_unreadable(self, reason: str) -> None:
        self._draft.refuse(self.key, reason)

    def _on_reset(self) -> None:
        self._draft.reset(self.key)

    def _on_refused(self, key: str, reason: str) -> None:
        if key == self.key:
            self.refresh()


class LineRow(QWidget):
    """A field that needs no label above it: its own words say what it is, or the title of its card.

    reset: the person wants the default back
    """

    reset = Signal()

    def __init__(self, label: str, field: QWidget, *, key_name: str) -> None:
        super().__init__()
        self._label = label
        self._field = field
        self._reset = ResetButton("rotate-ccw", name=key_name)
        self._reset.setAccessibleName(f"{label}: back to the default")
        self._reset.clicked.connect(self.reset)
        self._reset.hide()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(6))
        first, last = (field, self._reset) if isinstance(field, QCheckBox) else (self._reset, field)
        layout.addWidget(first)
        layout.addWidget(last)
        if isinstance(field, QCheckBox):
            layout.addStretch()

    def set_changed(self, default: str | None) -> None:
        """default: in words, shown while the value differs from it; None: the value is the default."""
        self._reset.setVisible(default is not None)
        if default is not None:
            if not isinstance(self._field, QCheckBox):  # a box has one other state: the arrow alone says it
                self._reset.setText(f"default {default}")
            self._reset.setAccessibleName(f"{self._label}: back to {default}")
            self._reset.setToolTip(f"Back to {default}")

    def set_problem(self, text: str) -> None:
        """A red edge; its words stand elsewhere on the card."""
        set_property(self._field, "problem", bool(text))


def in_words(field: Field, value: Any) -> str:
    """A default as it stands beside a changed setting."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if field.key == "lora.start_from" and not value:
        return NEW_ADAPTER[:1].lower() + NEW_ADAPTER[1:]
    if isinstance(value, str):
        return str(field.setting.choices.get(value, value)) or "none"
    if field.key == "training.learning_rate":
        return small_number(value)
    if field.key == "data.validation":
        return f"{value * 100:g}{THIN}%" if value else "none"
    if isinstance(value, dict):
        return numbers_by_name(value) or "none"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def numbers_by_name(values: Mapping[str, int]) -> str:
    """ "q_proj=16, down_proj=128"."""
    return ", ".join(f"{name}={number}" for name, number in values.items())


def start_name(path: str) -> str:
    """ "my-run", or "my-run, step-000120": as much of the path as tells one adapter from another."""
    *above, last = Path(path).parts or ("",)
    if last == "adapter" and above:
        return above[-1]
    if len(above) > 1 and above[-1] == "checkpoints":
        return f"{above[-2]}, {last}"
    return last


def small_number(value: float) -> str:
    """ "2e-4"; as it is typed."""
    if value == 0 or 0.01 <= value < 10_000:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _name(key: str) -> str:
    return key.replace(".", "_")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_BUILDERS: dict[str, Callable[[SettingField, str], tuple[QWidget, Callable[[Any], None]]]] = {
    "training.learning_rate": SettingField._learning_rate,
    "training.recompute": SettingField._recompute,
    "data.validation": SettingField._held_out,
    "lora.target_modules": SettingField._targets,
    "lora.start_from": SettingField._start,
    "checkpoints.questions": SettingField._questions,
    "lora.layers": SettingField._layers,
    "lora.ranks": SettingField._numbers_by_name,
    "lora.alphas": SettingField._numbers_by_name,
}
