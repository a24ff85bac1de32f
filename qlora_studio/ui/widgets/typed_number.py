"""A number of a form that keeps what was typed, also where it can't stand: nothing is changed in silence."""

from __future__ import annotations

import re

from PySide6.QtCore import QSize, Signal
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import QAbstractSpinBox, QWidget

from qlora_studio.plain_text import visible_line
from qlora_studio.ui.widgets.fields import prepare_spin

LONGEST = 18  # characters of a limit that the field is made as wide as, as in Qt's own number fields

_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")  # a thousand, or one with three places
_WHOLE = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)")


class TypedNumber(QAbstractSpinBox):
    """An int where `low` is one, else a float with a point or a comma. The wheel changes nothing.

    entered:    a number, by keys or arrows, also beyond the limits: who takes it says so
    unreadable: why what was typed is no number
    """

    entered = Signal(object)
    unreadable = Signal(str)

    def __init__(
        self,
        low: float,
        high: float,
        value: float,
        *,
        name: str,
        label: str,
        step: float = 1,
        places: int = 4,
        unit: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._low, self._high, self._step, self._places = low, high, step, places
        self._unit = f" {unit}" if unit else ""
        self._value = value
        prepare_spin(self, name, label)  # a first theme asks at once which arrows do something
        self._told = ""  # the text as it was last shown or told
        self.setProperty("minimum", low)  # what a screen reader asks for
        self.setProperty("maximum", high)
        self.setValue(value)
        self.editingFinished.connect(self._on_finished)

    def value(self) -> float:
        """The last one that was within the limits."""
        return self._value

    def setValue(self, value: float) -> None:
        """Shown, and not told."""
        self._value = value
        self.setProperty("value", value)
        self._told = self._text_of(value)
        if self.lineEdit().text() != self._told:
            self.lineEdit().setText(self._told)

    def stepBy(self, steps: int) -> None:
        """From what stands there, where it is a number."""
        typed = self._number(self.text())
        start = self._value if typed is None else typed
        moved = min(max(start + steps * self._step, self._low), self._high)
        self.setValue(moved if isinstance(self._low, int) else round(moved, self._places))
        self.entered.emit(self._value)

    def stepEnabled(self) -> QAbstractSpinBox.StepEnabledFlag:
        flags = QAbstractSpinBox.StepEnabledFlag.StepNone
        if self._value < self._high:
            flags |= QAbstractSpinBox.StepEnabledFlag.StepUpEnabled
        if self._value > self._low:
            flags |= QAbstractSpinBox.StepEnabledFlag.StepDownEnabled
        return flags

    def sizeHint(self) -> QSize:
        return self._wide_enough(super().sizeHint())

    def minimumSizeHint(self) -> QSize:
        return self._wide_enough(super().minimumSizeHint())

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()

    def _wide_enough(self, hint: QSize) -> QSize:
        """Qt's own hint has no words in it: it knows of no value."""
        limits = (self._text_of(limit)[:LONGEST] for limit in (self._low, self._high))
        widest = max(self.fontMetrics().horizontalAdvance(text) for text in limits)
        return hint + QSize(widest, 0)

    def _on_finished(self) -> None:
        text = self.text()
        if text == self._told and not self.property(
            "problem"
        ):  # one that was typed elsewhere is answered here
            return
        self._told = text
        number = self._number(text)
        if number is None:
            kind = "whole number" if isinstance(self._low, int) else "number"
            either = "; write it without a comma" if _EITHER.fullmatch(text) else ""
            self.unreadable.emit(f"{visible_line(text, LONGEST)!r} is no {kind}{either}.")
            return
        if self._low <= number <= self._high:
            self.setValue(number)
        self.entered.emit(number)

    def _number(self, text: str) -> float | None:
        text = text.strip().removesuffix(self._unit.strip()).strip()
        whole = isinstance(self._low, int)
        if (whole and not _WHOLE.fullmatch(text)) or (not whole and _EITHER.fullmatch(text)):
            return None
        try:
            return int(text.replace(",", "")) if whole else float(text.replace(",", "."))
        except ValueError:  # also an int of more digits than Python reads
            return None

    def _text_of(self, value: float) -> str:
        if isinstance(self._low, int):
            return f"{value:,}{self._unit}"
        text = f"{value:.{self._places}f}".rstrip("0")
        if float(text) != value:  # 1e-05 is not 0.0
            return f"{value!r}{self._unit}"
        return f"{text}0{self._unit}" if text.endswith(".") else f"{text}{self._unit}"
