"""Fields of a form: label with the way back to the default, number boxes, choices, sliders, switches.

The wheel changes no value: a field passes it on to the page, which scrolls. Each does so itself: one filter
on the whole application is asked at every event there is, which doubled the window's work.
"""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QPoint, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QPainter, QPaintEvent, QPen, QResizeEvent, QWheelEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLineEdit,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QVBoxLayout,
    QWidget,
)

from qlora_studio.plain_text import visible_line
from qlora_studio.ui.icons import icon
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets.buttons import LinkButton
from qlora_studio.ui.widgets.cards import IconLabel
from qlora_studio.ui.widgets.text import PlainLabel, plain_tooltip, set_property

_GAP = 6  # px at 100 % between a label and the way back to its default
_AROUND_ICON = 8
_AROUND_TEXT = 4  # px that a style draws around the words of a choice


class NumberBox(QSpinBox):
    """A whole number with thousands commas."""

    def __init__(
        self,
        low: int,
        high: int,
        value: int,
        *,
        name: str,
        label: str,
        unit: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        prepare_spin(self, name, label)
        self.setRange(low, high)
        self.setGroupSeparatorShown(True)
        self.setSuffix(f" {unit}" if unit else "")
        self.setValue(value)

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()


class DecimalBox(QDoubleSpinBox):
    """A number with a point, as many places as are needed to write it."""

    def __init__(
        self,
        low: float,
        high: float,
        value: float,
        *,
        name: str,
        label: str,
        step: float = 0.1,
        places: int = 4,
        unit: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        prepare_spin(self, name, label)
        self.setDecimals(places)
        self.setRange(low, high)
        self.setSingleStep(step)
        self.setSuffix(f" {unit}" if unit else "")
        self.setValue(value)

    def textFromValue(self, value: float) -> str:
        text = f"{value:.{self.decimals()}f}".rstrip("0")
        return f"{text}0" if text.endswith(".") else text

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()


class ChoiceBox(QComboBox):
    """A choice by value; `chosen` tells the value when a person picks one."""

    chosen = Signal(str)

    def __init__(
        self,
        choices: Sequence[tuple[str, str]],
        *,
        name: str,
        label: str,
        elide: Qt.TextElideMode = Qt.TextElideMode.ElideMiddle,
        parent: QWidget | None = None,
    ) -> None:
        """choices: value and words, in order; elide: what is left out of one that is longer than the box."""
        super().__init__(parent)
        self._elide = elide
        self._shown_whole = ""  # the tooltip that says an elided choice
        self.setObjectName(name)
        self.setAccessibleName(label)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.setMinimumContentsLength(6)
        self.set_choices(choices)
        self.activated.connect(self._on_activated)
        self.currentTextChanged.connect(self._mark_elided)

    def paintEvent(self, event: QPaintEvent) -> None:
        """A choice that is longer than the box has a part left out."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        option.currentText = self._elided(option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def sizeHint(self) -> QSize:
        """Wide enough for the longest choice: what a style leaves for the words is less than Qt counts on."""
        hint = super().sizeHint()
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        option.rect = QRect(QPoint(0, 0), hint)
        widest = max(
            (self.fontMetrics().horizontalAdvance(self.itemText(at)) for at in range(self.count())), default=0
        )
        return hint + QSize(max(widest + 1 - self._room(option), 0), 0)  # 1: what an advance is rounded by

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._mark_elided()

    def _elided(self, option: QStyleOptionComboBox) -> str:
        return self.fontMetrics().elidedText(self.currentText(), self._elide, self._room(option))

    def _room(self, option: QStyleOptionComboBox) -> int:
        """px for the words."""
        edit = QStyle.SubControl.SC_ComboBoxEditField
        field = self.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, edit, self)
        return field.width() - _AROUND_TEXT

    def _mark_elided(self) -> None:
        """The tooltip has it whole, where nobody gave it other words."""
        if self.toolTip() in ("", self._shown_whole):
            option = QStyleOptionComboBox()
            self.initStyleOption(option)
            text = self.currentText()
            self._shown_whole = plain_tooltip(text) if self._elided(option) != text else ""
            self.setToolTip(self._shown_whole)

    def set_choices(self, choices: Sequence[tuple[str, str]]) -> None:
        """Keeps the chosen value if it is still there."""
        kept = self.value()
        self.blockSignals(True)
        self.clear()
        for value, words in choices:
            self.addItem(visible_line(words, 300), value)
        self.blockSignals(False)
        self.set_value(kept)

    def value(self) -> str:
        value = self.currentData()
        return value if isinstance(value, str) else ""

    def set_value(self, value: str) -> None:
        """Shows a choice without telling it again."""
        at = self.findData(value)
        if at >= 0:
            self.setCurrentIndex(at)

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()

    def _on_activated(self) -> None:
        self.chosen.emit(self.value())


class Slider(QSlider):
    """A number by its place on a line, from left to right."""

    def __init__(self, low: int, high: int, *, name: str, label: str, parent: QWidget | None = None) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self.setObjectName(name)
        self.setAccessibleName(label)
        self.setRange(low, high)

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()


class TextBox(QLineEdit):
    """One line of text."""

    def __init__(
        self, text: str = "", *, name: str, label: str, placeholder: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__(text, parent)
        self.setObjectName(name)
        self.setAccessibleName(label)
        self.setPlaceholderText(placeholder)


class SearchBox(TextBox):
    """A line with a magnifying glass and a cross that empties it. Ctrl+F of the page comes here."""

    def __init__(self, placeholder: str, *, name: str, parent: QWidget | None = None) -> None:
        super().__init__(name=name, label=placeholder, placeholder=placeholder, parent=parent)
        self._glass = IconLabel("search", parent=self)  # an action's icon has one size at any text size
        self._glass.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setClearButtonEnabled(True)
        self._place_glass()
        theme().changed.connect(self._place_glass)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place_glass()

    def _place_glass(self) -> None:
        side, left = theme().px(16), theme().px(9)
        self._glass.setGeometry(left, (self.height() - side) // 2, side, side)
        self.setTextMargins(left + side, 0, 0, 0)


class FormRow(QWidget):
    """A label above its field. `set_changed` shows "default x" and a reset arrow beside the label: as much of
    it as has room, and no cut words.

    reset:   the person wants the default back
    problem: what is wrong with the value stands under the field
    """

    reset = Signal()

    def __init__(self, label: str, field: QWidget, *, key_name: str, parent: QWidget | None = None) -> None:
        """key_name: object name of the arrow, such as `train_reset_lora_r`."""
        super().__init__(parent)
        self.field = field
        if isinstance(field, QComboBox):  # as wide as the other fields, whatever it offers
            field.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.label = PlainLabel(label, "label")
        self.label.setBuddy(field)
        self._reset = ResetButton("rotate-ccw", name=key_name)
        self._reset.setAccessibleName(f"{label}: back to the default")
        self._reset.clicked.connect(self.reset)
        self._default = ""
        keep = self._reset.sizePolicy()
        keep.setRetainSizeWhenHidden(True)
        self._reset.setSizePolicy(keep)
        self._reset.hide()
        self._problem = PlainLabel("", "note", wrap=True, name=f"{field.objectName()}_problem")
        self._problem.set_tone("bad")
        self._problem.hide()
        head = QHBoxLayout()
        head.setSpacing(theme().px(_GAP))
        head.addWidget(self.label)
        head.addStretch()
        head.addWidget(self._reset)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(2))
        layout.addLayout(head)
        layout.addWidget(field)
        layout.addWidget(self._problem)
        layout.addStretch()

    def set_changed(self, default: str | None) -> None:
        """default: in words, shown while the value differs from it; None: the value is the default."""
        self._reset.setVisible(default is not None)
        if default is not None:
            self._default = default
            self._fit_reset()
            self._reset.setToolTip(f"Back to {default}")

    def minimumSizeHint(self) -> QSize:
        """The arrow alone is enough beside the label: its words come where there is room."""
        beside = theme().px(_GAP) + self._reset.iconSize().width() + theme().px(_AROUND_ICON)
        least = max(self.label.sizeHint().width() + beside, self.field.minimumSizeHint().width())
        return QSize(least, super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_reset()

    def _fit_reset(self) -> None:
        if not self._default:
            return
        room = self.width() - self.label.sizeHint().width() - theme().px(_GAP)
        for words in (f"default {self._default}", "default", ""):
            self._reset.setText(words)
            if self._reset.sizeHint().width() <= room:
                break
        self._reset.setAccessibleName(f"{self.label.text()}: back to {self._default}")

    def set_problem(self, text: str) -> None:
        """Under the field, with its edge in red; "" takes it away."""
        self._problem.setText(text)
        self._problem.setVisible(bool(text))
        set_property(self.field, "problem", bool(text))


class ResetButton(LinkButton):
    """ "default 0.0" and an arrow back to it, at its right."""

    def __init__(self, icon_name: str, *, name: str) -> None:
        super().__init__("", icon_name, name=name, small=True)
        self.setLayoutDirection(Qt.LayoutDirection.RightToLeft)

    def set_icon(self, icon_name: str) -> None:
        super().set_icon(icon_name)
        self.setIcon(icon(icon_name, "accent", at_right=True))


class Switch(QAbstractButton):
    """On or off, at once."""

    def __init__(self, *, name: str, label: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName(label)
        self.setCheckable(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme().changed.connect(self.updateGeometry)

    def sizeHint(self) -> QSize:
        return QSize(theme().px(40), theme().px(28))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        height = theme().px(18)
        track = QRectF(3, (self.height() - height) / 2, self.width() - 6, height)
        on = self.isChecked()
        edge = "disabled" if not self.isEnabled() else "accent" if on else "border_strong"
        painter.setPen(QPen(theme().color(edge), 1))
        painter.setBrush(theme().color(edge if on else "surface"))
        painter.drawRoundedRect(track, height / 2, height / 2)
        knob = height - 6
        x = track.right() - knob - 3 if on else track.left() + 3
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme().color("on_accent" if on else edge))
        painter.drawEllipse(QRectF(x, track.top() + 3, knob, knob))
        if self.hasFocus():
            painter.setPen(QPen(theme().color("focus"), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(track.adjusted(-2, -2, 2, 2), height / 2 + 2, height / 2 + 2)


def prepare_spin(box: QAbstractSpinBox, name: str, label: str) -> None:
    """What every number field shares."""
    box.setObjectName(name)
    box.setAccessibleName(label)
    box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    box.setKeyboardTracking(False)
    line = box.findChild(QLineEdit)
    if line is not None:
        line.setTextMargins(theme().px(8), 0, 0, 0)  # a spin box ignores the padding of a style sheet
