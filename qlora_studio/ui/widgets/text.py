"""Words on the screen: plain, never longer than a person could read, control characters made visible."""

from __future__ import annotations

import html
import unicodedata

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QLabel, QSizePolicy, QWidget

LONGEST_TEXT = 10_000  # characters in one widget (S8)

_PICTURES = 0x2400  # Unicode's pictures of the control characters begin here
_KEPT = {"\n", "\t"}
_HIDDEN_CATEGORIES = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}  # scripts and emoji need them; they turn nothing around


def visible_text(text: str, limit: int = LONGEST_TEXT) -> str:
    """Text from outside as it may be shown: control and bidi characters as code, cut at `limit` (S8)."""
    cut = text[:limit]
    shown = cut if cut.isascii() and cut.isprintable() else "".join(map(_visible, cut))
    if len(text) > limit or len(shown) > limit:
        return shown[: limit - 1] + "…"
    return shown


def visible_line(text: str, limit: int = LONGEST_TEXT) -> str:
    """The same on one line: line ends as `↵`, tabs as `⇥`."""
    return visible_text(text[: limit + 1].replace("\n", "↵").replace("\t", "⇥"), limit)


def _visible(character: str) -> str:
    if character in _KEPT or character in _JOINERS:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(_PICTURES + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(character) in _HIDDEN_CATEGORIES:
        return f"[U+{code:04X}]"
    return character


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
        if name:
            self.setObjectName(name)
        self.setText(text)

    def setText(self, text: str) -> None:
        super().setText(visible_text(text))

    def set_tone(self, tone: str) -> None:
        """ok, warn, bad, accent; "" for the role's own colour."""
        set_property(self, "tone", tone)


class ElidedLabel(PlainLabel):
    """A name on one line, its middle left out where room is short; the tooltip has it whole."""

    def __init__(
        self, text: str = "", role: str = "", *, name: str = "", parent: QWidget | None = None
    ) -> None:
        self._full = ""
        super().__init__(text, role, name=name, parent=parent)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def full_text(self) -> str:
        return self._full

    def setText(self, text: str) -> None:
        self._full = visible_line(text)
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
        from PySide6.QtGui import QPainter

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
        self.setToolTip("" if self._fits() else plain_tooltip(self._full))


def plain_tooltip(text: str) -> str:
    """A tooltip that shows markup as written: Qt would guess that it is rich text (S8)."""
    shown = visible_text(text)
    if "<" not in shown and "&" not in shown:
        return shown
    return f"<p style='white-space: pre-wrap'>{html.escape(shown)}</p>"
