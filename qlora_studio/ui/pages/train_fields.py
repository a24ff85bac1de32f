"""One field for each setting, built from what the setting says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QEvent, QObject, Signal
from PySide6.QtWidgets import QCheckBox, QWidget

from qlora_studio.config.setting import Field
from qlora_studio.state.draft import RunDraft
from qlora_studio.ui.widgets import ChoiceBox, DecimalBox, FormRow, NumberBox, TextBox

HELD_OUT = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)


class SettingField(QObject):
    """Keeps one widget and one key of the draft equal, in both directions.

    looked_at: the key, when the person hovers or focuses it
    """

    looked_at = Signal(str)

    def __init__(self, draft: RunDraft, key: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.key = key
        self._draft = draft
        self._field: Field = draft.fields[key]
        self.widget, self._show = self._build()
        self.widget.setToolTip("")
        self.widget.setAccessibleDescription(self._field.setting.help)
        self.widget.installEventFilter(self)
        self.row: QWidget = self._in_row()
        draft.changed.connect(self.refresh)
        draft.refused.connect(self._on_refused)
        self.refresh()

    def refresh(self) -> None:
        """Shows what the draft holds."""
        value = self._draft.value(self.key)
        self._show(value)
        if isinstance(self.row, FormRow):
            default = self._draft.default(self.key)
            self.row.set_changed(None if value == default else in_words(self._field, default))
            self.row.set_problem("")

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() in (QEvent.Type.FocusIn, QEvent.Type.Enter):
            self.looked_at.emit(self.key)
        return False

    def _in_row(self) -> QWidget:
        if isinstance(self.widget, QCheckBox):
            return self.widget
        row = FormRow(self._field.setting.label, self.widget, key_name=f"train_reset_{_name(self.key)}")
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
            number = NumberBox(
                int(setting.minimum or 0),
                int(min(setting.maximum or 2**31 - 1, 2**31 - 1)),
                int(self._field.default),
                name=name,
                label=setting.label,
                unit=setting.unit,
            )
            number.valueChanged.connect(self._set)
            return number, _quietly(number, number.setValue)
        decimal = DecimalBox(
            setting.minimum or 0.0,
            setting.maximum or 1e9,
            float(self._field.default),
            name=name,
            label=setting.label,
            step=0.05 if (setting.maximum or 1) <= 1 else 0.5,
        )
        decimal.valueChanged.connect(self._set)
        return decimal, _quietly(decimal, decimal.setValue)

    def _choice(self, name: str, choices: list[tuple[str, str]]) -> tuple[QWidget, Callable[[Any], None]]:
        box = ChoiceBox(choices, name=name, label=self._field.setting.label)
        box.chosen.connect(self._set)
        return box, box.set_value

    def _learning_rate(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        """Typed as one writes it: 0.0002 or 2e-4."""
        box = TextBox(name=name, label=self._field.setting.label)

        def read() -> None:
            try:
                self._set(float(box.text().strip().replace(",", ".")))
            except ValueError:
                self._on_refused(self.key, f"{box.text()!r} is no number; write 2e-4 or 0.0002.")

        box.editingFinished.connect(read)
        return box, lambda value: box.setText(small_number(value))

    def _recompute(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        """Auto, none, all, or a number of layers that a file brought."""
        choices = list(self._field.setting.choices.items())
        box = ChoiceBox(choices, name=name, label=self._field.setting.label)
        box.chosen.connect(lambda value: self._set(int(value) if value.isdigit() else value))

        def show(value: str | int) -> None:
            numbered = [(str(value), f"{value} layers")] if isinstance(value, int) else []
            box.set_choices([*choices, *numbered])
            box.set_value(str(value))

        return box, show

    def _held_out(self, name: str) -> tuple[QWidget, Callable[[Any], None]]:
        """A share, or the file that a settings file names."""
        box = ChoiceBox([], name=name, label=self._field.setting.label)
        box.chosen.connect(lambda value: self._set(float(value) if _is_number(value) else value))

        def show(value: float | str) -> None:
            shares = sorted({*HELD_OUT, value}) if isinstance(value, float | int) else HELD_OUT
            choices = [
                (str(float(share)), f"{share:.0%} of the rows" if share else "None") for share in shares
            ]
            box.set_choices([*choices, *([(value, value)] if isinstance(value, str) else [])])
            box.set_value(str(float(value)) if isinstance(value, float | int) else value)

        return box, show

    def _set(self, value: Any) -> None:
        self._draft.set(self.key, value)

    def _on_reset(self) -> None:
        self._draft.reset(self.key)

    def _on_refused(self, key: str, reason: str) -> None:
        if key == self.key and isinstance(self.row, FormRow):
            self.row.set_problem(reason)


def in_words(field: Field, value: Any) -> str:
    """A default as it stands beside a changed setting."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return str(field.setting.choices.get(value, value))
    if field.key == "training.learning_rate":
        return small_number(value)
    if field.key == "data.validation":
        return f"{value:.0%}" if value else "none"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def small_number(value: float) -> str:
    """ "2e-4"; as it is typed."""
    if value == 0 or 0.01 <= value < 10_000:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _quietly(box: NumberBox | DecimalBox, show: Callable[[Any], None]) -> Callable[[Any], None]:
    """Shows a value without telling it back."""

    def shown(value: Any) -> None:
        box.blockSignals(True)
        show(value)
        box.blockSignals(False)

    return shown


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
}
