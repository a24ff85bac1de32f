"""Areas that hold things: card, inset tile, number card, what an empty page says, the line between rows."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QApplication,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QSizePolicy,
    QSpacerItem,
    QVBoxLayout,
    QWidget,
)

from qlora_studio.ui.icons import icon_pixmap
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets.text import ElidedLabel, PlainLabel, set_property


class IconLabel(QLabel):
    """An icon that says something. `label` is read aloud, "" where words stand beside it."""

    def __init__(
        self,
        icon_name: str,
        color: str = "muted",
        size: int = 16,
        *,
        label: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._icon_name, self._color, self._side = icon_name, color, size
        self.setAccessibleName(label)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self._draw()
        theme().changed.connect(self._draw)

    def set_icon(self, icon_name: str, color: str) -> None:
        if (icon_name, color) != (self._icon_name, self._color):
            self._icon_name, self._color = icon_name, color
            self._draw()

    def icon_name(self) -> str:
        return self._icon_name

    def _draw(self) -> None:
        self.setPixmap(icon_pixmap(self._icon_name, self._color, self._side))


class Card(QFrame):
    """A white area with an edge. Fill `body`; `head` holds title and note, and takes more on its right.

    title: may be "": then there is no head line
    """

    def __init__(
        self,
        title: str = "",
        note: str = "",
        *,
        name: str = "",
        icon_name: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._snug = False
        self.setObjectName(name)
        across, down = theme().size.card_padding
        layout = QVBoxLayout(self)
        layout.setContentsMargins(theme().px(across), theme().px(down), theme().px(across), theme().px(down))
        layout.setSpacing(0)
        head = QWidget()
        head.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        self.head = QHBoxLayout(head)
        self.head.setContentsMargins(0, 0, 0, theme().px(10))  # follows the text size, as a spacer doesn't
        self.head.setSpacing(theme().px(8))
        self.title = PlainLabel(title, "card_title")
        self.note = PlainLabel(note, "muted")
        self.body = QVBoxLayout()
        self.body.setSpacing(theme().px(10))
        if icon_name:
            self.head.addWidget(IconLabel(icon_name, "accent"))
        self.head.addWidget(self.title)
        self.head.addWidget(self.note, 1)
        if title:
            self.setAccessibleName(title)
            layout.addWidget(head)
        else:
            head.setParent(self)
            head.hide()
        layout.addLayout(self.body, 1000)
        # Where the body can't grow, what is left goes below it, not around the title.
        layout.addSpacerItem(QSpacerItem(0, 0, QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Preferred))
        layout.setStretch(layout.count() - 1, 1)

    def add_to_head(self, widget: QWidget) -> None:
        """At the right end of the title line."""
        self.head.addWidget(widget, 0, Qt.AlignmentFlag.AlignVCenter)

    def set_note(self, note: str) -> None:
        self.note.setText(note)

    def keep_snug(self) -> None:
        """No higher than what is in it, whatever room the page has."""
        self._snug = True
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def sizeHint(self) -> QSize:
        """A snug card's height is its limit: what is in it may take more lines at the width it has."""
        hint = super().sizeHint()
        if self._snug and self.hasHeightForWidth():
            hint.setHeight(self.heightForWidth(self.width()))
        return hint

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self._snug and event.size().width() != event.oldSize().width():
            self.updateGeometry()


class Tile(QFrame):
    """An inset inside a card: icon, name, note and a button or two on the right (`add`)."""

    def __init__(
        self, icon_name: str, title: str, note: str = "", *, name: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self._layout = QHBoxLayout(self)
        self._layout.setContentsMargins(theme().px(12), theme().px(8), theme().px(10), theme().px(8))
        self._layout.setSpacing(theme().px(10))
        self.icon = IconLabel(icon_name, "accent", 18)
        self.title = ElidedLabel(title, "strong")
        self.note = ElidedLabel(note, "note")
        words = QVBoxLayout()
        words.setSpacing(theme().px(2))
        words.addStretch()
        words.addWidget(self.title)
        words.addWidget(self.note)
        words.addStretch()
        self._layout.addWidget(self.icon)
        self._layout.addLayout(words, 1)

    def add(self, widget: QWidget) -> None:
        self._layout.addWidget(widget, 0, Qt.AlignmentFlag.AlignVCenter)

    def set_words(self, title: str, note: str) -> None:
        self.title.setText(title)
        self.note.setText(note)

    def set_tone(self, tone: str) -> None:
        """ "bad" turns the tile into the reason why something can't be used; "" turns it back."""
        set_property(self, "tone", tone)


class NumberCard(Card):
    """A figure that is watched: title, large number with its unit, note below."""

    def __init__(
        self, title: str, *, name: str = "", large: bool = False, parent: QWidget | None = None
    ) -> None:
        super().__init__(name=name, parent=parent)
        self.setAccessibleName(title)
        self.body.setSpacing(theme().px(1))
        self.caption = PlainLabel(title, "muted")
        self.number = PlainLabel("–", "number_large" if large else "number")
        self.unit = PlainLabel("", "muted")
        self.note = PlainLabel("", "note")
        line = QHBoxLayout()
        line.setSpacing(theme().px(6))
        line.addWidget(self.number)
        line.addWidget(self.unit, 1, Qt.AlignmentFlag.AlignBottom)
        self.unit.setContentsMargins(0, 0, 0, theme().px(3))
        self.body.addWidget(self.caption)
        self.body.addLayout(line)
        self.body.addWidget(self.note)

    def set_value(self, number: str, unit: str = "", note: str = "", tone: str = "") -> None:
        """tone: of the note: ok, warn, bad or ""."""
        self.number.setText(number)
        self.unit.setText(unit)
        self.note.setText(note)
        self.note.set_tone(tone)
        self.setAccessibleDescription(" ".join(part for part in (number, unit, note) if part))


class EmptyState(QWidget):
    """What a page or card says before it holds anything: icon, title, words, buttons for the step before."""

    def __init__(
        self,
        icon_name: str,
        title: str,
        text: str = "",
        *buttons: QWidget,
        name: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.title = PlainLabel(title, "card_title", wrap=True)
        self.text = PlainLabel(text, "muted", wrap=True)
        layout = QVBoxLayout(self)
        layout.setSpacing(theme().px(8))
        layout.addStretch()
        layout.addWidget(IconLabel(icon_name, "muted", 28), 0, Qt.AlignmentFlag.AlignHCenter)
        for label in (self.title, self.text):
            label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            layout.addWidget(label)
        self.text.setVisible(bool(text))
        if buttons:
            row = QHBoxLayout()
            row.setSpacing(theme().px(8))
            row.addStretch()
            for button in buttons:
                row.addWidget(button)
            row.addStretch()
            layout.addSpacing(theme().px(4))
            layout.addLayout(row)
        layout.addStretch()

    def set_words(self, title: str, text: str) -> None:
        self.title.setText(title)
        self.text.setText(text)
        self.text.setVisible(bool(text))


def empty_layout(layout: QLayout) -> None:
    """Takes everything out of a layout of rows that is to be filled anew.

    A focus in it stays at this place: Qt would pass it on to what comes next, and scroll the page there.
    """
    focused, around = QApplication.focusWidget(), layout.parentWidget()
    while (item := layout.takeAt(0)) is not None:
        widget = item.widget()
        if widget is not None:
            has_focus = focused is not None and (widget is focused or widget.isAncestorOf(focused))
            if has_focus and around is not None:
                around.setFocus()
            widget.hide()
            widget.deleteLater()


class Separator(QFrame):
    """A line of one pixel between rows, or upright between groups."""

    def __init__(self, *, upright: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        if upright:
            self.setFixedWidth(1)
        else:
            self.setFixedHeight(1)
