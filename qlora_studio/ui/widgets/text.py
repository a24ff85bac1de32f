"""Words on the screen: plain, never longer than a person could read, control characters made visible."""

from __future__ import annotations

import html
import re

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QLabel, QSizePolicy, QWidget

from qlora_studio.plain_text import LONGEST, visible_line, visible_text
from qlora_studio.ui.theme import theme

LONGEST_SHOWN = LONGEST - 60  # room for the words that say how much was cut
_BREAK = "\u200b"  # nothing to be seen, and a line may end there
_LONG_WORD = re.compile(r"\S{25,}")
_PIECE = re.compile(r"(?:[^\s_./\\:=&?,;-]{20}|[^\s_./\\:=&?,;-]{0,19}[_./\\:=&?,;-]+)(?=\S)")


def set_property(widget: QWidget, name: str, value: str | bool) -> None:
    """A property that the style sheet reads, put in force at once."""
    if widget.property(name) != value:
        widget.setProperty(name, value)
        widget.style().unpolish(widget)
        widget.style().polish(widget)


class PlainLabel(QLabel):
    """Plain text in one of the theme's roles; text from outside may be given as it is.

    role: title crumb card_title number number_large strong label muted note chat mono, or "" for body
    """

    def __init__(
        self,
        text: str = "",
        role: str = "",
        *,
        wrap: bool = False,
        name: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(wrap)
        self.setProperty("role", role)
        if role == "mono":
            self.setFont(theme().font("mono"))  # without ligatures, which a style sheet can't say
        if name:
            self.setObjectName(name)
        self.setText(text)

    def setText(self, text: str) -> None:
        shown = visible_text(text, LONGEST_SHOWN)
        super().setText(breakable(shown) if self.wordWrap() else shown)

    def text(self) -> str:
        return super().text().replace(_BREAK, "")

    def set_tone(self, tone: str) -> None:
        """ok, warn, bad, accent; "" for the role's own colour."""
        set_property(self, "tone", tone)


class ElidedLabel(PlainLabel):
    """A name on one line, its middle left out where room is short; the tooltip has it whole."""

    def __init__(
        self, text: str = "", role: str = "", *, name: str = "", parent: QWidget | None = None
    ) -> None:
        self._full = self._tip = ""
        super().__init__(text, role, name=name, parent=parent)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def full_text(self) -> str:
        return self._full

    def set_tip(self, tip: str) -> None:
        """What the tooltip says besides."""
        self._tip = tip
        self._mark_elided()

    def setText(self, text: str) -> None:
        self._full = visible_line(text, LONGEST_SHOWN)
        super().setText(self._full)
        self.setAccessibleName(self._full)
        self._mark_elided()
        self.updateGeometry()

    def minimumSizeHint(self) -> QSize:
        hint = super().minimumSizeHint()
        return QSize(min(hint.width(), self.fontMetrics().averageCharWidth() * 6), hint.height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._mark_elided()

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._fits():
            super().paintEvent(event)
            return
        painter = QPainter(self)
        shown = self.fontMetrics().elidedText(
            self._full, Qt.TextElideMode.ElideMiddle, self.contentsRect().width()
        )
        self.style().drawItemText(
            painter, self.contentsRect(), self.alignment(), self.palette(), self.isEnabled(), shown,
            self.foregroundRole(),
        )  # fmt: skip

    def _fits(self) -> bool:
        return self.fontMetrics().horizontalAdvance(self._full) <= self.contentsRect().width()

    def _mark_elided(self) -> None:
        lines = ([] if self._fits() else [self._full]) + ([self._tip] if self._tip else [])
        self.setToolTip(plain_tooltip("\n".join(lines)))


def breakable(text: str) -> str:
    """A path or a name without spaces may go over several lines, after its signs or 20 characters."""
    return _LONG_WORD.sub(lambda found: _PIECE.sub(rf"\g<0>{_BREAK}", found[0]), text)


def plain_tooltip(text: str) -> str:
    """A tooltip that shows markup as written: Qt would guess that it is rich text (S8)."""
    shown = visible_text(text, LONGEST_SHOWN)
    if "<" not in shown and "&" not in shown:
        return shown
    return f"<p style='white-space: pre-wrap'>{html.escape(shown)}</p>"
