"""Buttons by what they mean, and the toggles that are joined or shaped like chips."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from PySide6.QtCore import QEvent, QSize, Qt, Signal
from PySide6.QtGui import QFocusEvent
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QPushButton, QSizePolicy, QWidget

from qlora_studio.plain_text import visible_line
from qlora_studio.ui.icons import icon
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets.text import set_property


class RingedButton(QPushButton):
    """Shows the ring of the focus where the keyboard brought it, not after a click."""

    def focusInEvent(self, event: QFocusEvent) -> None:
        set_property(self, "ring", event.reason() is not Qt.FocusReason.MouseFocusReason)
        super().focusInEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        set_property(self, "ring", False)
        super().focusOutEvent(event)


class SecondaryButton(RingedButton):
    """An outlined button. The words are a verb; `name` is its object name.

    small: 26 px high, inside cards and rows
    """

    _icon_color = "text"
    _icon_size = 16

    def __init__(
        self,
        text: str,
        icon_name: str = "",
        *,
        name: str = "",
        small: bool = False,
        tip: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setText(text)
        self.setObjectName(name)
        self.setProperty("small", small)
        self.setAutoDefault(False)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        if tip:
            self.setToolTip(tip)
        if icon_name:
            self.set_icon(icon_name)

    def setText(self, text: str) -> None:
        shown = visible_line(text, 200)
        super().setText(shown.replace("&", "&&"))  # an ampersand is a letter, never a hidden shortcut
        self.setAccessibleName(shown)
        if not self.icon().isNull():
            self._size_icon()

    def set_icon(self, icon_name: str) -> None:
        self.setIcon(icon(icon_name, self._icon_color))
        self._size_icon()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() is QEvent.Type.StyleChange and not self.icon().isNull():
            self._size_icon()  # the text size may be another one

    def _size_icon(self) -> None:
        side = theme().px(self._icon_size - (2 if self.property("small") else 0))
        gap = theme().px(3) if self.text() else 0  # Qt adds 4
        if self.iconSize() != QSize(side + gap, side):
            self.setIconSize(QSize(side + gap, side))

    def become(self, text: str, icon_name: str) -> None:
        """Another word and icon in the same place: Pause and Resume, Send and Stop."""
        self.setText(text)
        self.set_icon(icon_name)


class LongButton(SecondaryButton):
    """A small one whose words go on in further lines where they are many."""

    _MOST = 46  # letters a line; a card at the side of a page holds 50

    def setText(self, text: str) -> None:
        super().setText(text)
        lines = wrap(self.text(), self._MOST)
        QPushButton.setText(self, "\n".join(lines))
        set_property(self, "tall", len(lines) > 1)


class PrimaryButton(SecondaryButton):
    """The one filled button of a page."""

    _icon_color = "on_accent"


class DangerButton(SecondaryButton):
    """Ends or removes something."""

    _icon_color = "bad"


class LinkButton(SecondaryButton):
    """A small action written like a link."""

    _icon_color = "accent"


class IconButton(SecondaryButton):
    """An icon alone; `label` is its accessible name and tooltip. 32 px square, small 28."""

    _icon_size = 18

    def __init__(
        self,
        icon_name: str,
        label: str,
        *,
        name: str = "",
        small: bool = False,
        color: str = "muted",
        parent: QWidget | None = None,
    ) -> None:
        self._icon_color = color
        super().__init__("", icon_name, name=name, small=small, tip=label, parent=parent)
        self.setAccessibleName(label)


class Segmented(QWidget):
    """Two to five choices joined to one toggle: Simple | Advanced. `changed` tells the chosen value."""

    changed = Signal(str)

    def __init__(
        self, choices: Sequence[tuple[str, str]], *, name: str, label: str, parent: QWidget | None = None
    ) -> None:
        """choices: value and words, in order; the first is chosen. Buttons are named `<name>_<value>`."""
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName(label)
        self._group = QButtonGroup(self)
        self._buttons: dict[str, SegmentButton] = {}
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        last = len(choices) - 1
        for at, (value, words) in enumerate(choices):
            place = "only" if last == 0 else "first" if at == 0 else "last" if at == last else "middle"
            button = SegmentButton(words, name=f"{name}_{value}")
            button.setAccessibleName(f"{label}: {words}")
            button.setCheckable(True)
            button.setProperty("place", place)
            self._group.addButton(button)
            self._buttons[value] = button
            layout.addWidget(button)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        if choices:
            self._buttons[choices[0][0]].setChecked(True)
        self._group.buttonClicked.connect(self._on_clicked)

    def value(self) -> str:
        return next((value for value, button in self._buttons.items() if button.isChecked()), "")

    def set_value(self, value: str) -> None:
        """Shows a choice without telling it again."""
        self._buttons[value].setChecked(True)

    def button(self, value: str) -> QPushButton:
        return self._buttons[value]

    def _on_clicked(self) -> None:
        self.changed.emit(self.value())


class SegmentButton(SecondaryButton):
    """One part of a `Segmented`."""


class ChoiceChip(SecondaryButton):
    """A filter shaped like a chip, pressed or not: All, Flagged 112, Cut 2,205."""

    def __init__(self, text: str, *, name: str = "", parent: QWidget | None = None) -> None:
        super().__init__(text, name=name, parent=parent)
        self.setCheckable(True)
