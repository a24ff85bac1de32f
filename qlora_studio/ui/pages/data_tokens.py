"""One row in tokens: what is learned, what is only read, what is cut off; painted line by line."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QBrush,
    QColor,
    QFontMetricsF,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QWidget

from qlora_studio.data.token_view import Token
from qlora_studio.plain_text import visible_text
from qlora_studio.ui.theme import fade, theme

LINE = 24  # px between lines, at 100 %
BOX = 19  # px of the ground behind a token
ROLE = 78  # px of the column of roles
TURN_GAP = 5  # px before a new turn
LONGEST = 400  # characters of one token that are drawn; its foot line is cut as well

_RADIUS = 3
_ALREADY_SHOWN = "·"  # a token that ends a character which the token before it began


@dataclass(frozen=True)
class Cell:
    """A token, or a piece of one that is longer than a line, in its place. x and width in px."""

    token: int
    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Line:
    """Cells side by side. role: of the turn that begins here, else empty; top in px."""

    cells: tuple[Cell, ...]
    role: str
    top: float


class TokenView(QAbstractScrollArea):
    """Paints only the lines in sight. The arrows move a cursor over the tokens.

    pointed:    the token under the cursor, its number on this page
    page_asked: 1 or -1: the next or last page of tokens, where the cursor would leave this one
    """

    pointed = Signal(int)
    page_asked = Signal(int)

    def __init__(self, *, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName("Tokens of the row")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.viewport().setAutoFillBackground(False)
        self.viewport().setCursor(Qt.CursorShape.IBeamCursor)
        self._tokens: Sequence[Token] = ()
        self._lines: list[Line] = []
        self._tops: list[float] = []
        self._line_of: list[int] = []  # of each token its first line
        self._cursor = 0
        theme().changed.connect(self._on_theme_changed)

    # What is shown ----------------------------------------------------------------------------------

    def show_tokens(self, tokens: Sequence[Token], *, keep_place: bool = False) -> None:
        """keep_place: the same row again, as under another limit: cursor and scroll stay."""
        if tokens is self._tokens:
            return
        self._tokens = tokens
        if not keep_place:
            self._cursor = 0
        self._cursor = min(self._cursor, max(len(tokens) - 1, 0))
        self._lay_out()
        if not keep_place:
            self.verticalScrollBar().setValue(0)

    def token(self) -> Token | None:
        """The one under the cursor."""
        return self._tokens[self._cursor] if self._tokens else None

    def cursor_place(self) -> int:
        """Its number on this page."""
        return self._cursor

    def set_cursor(self, place: int) -> None:
        """Puts the cursor on a token, and that into sight."""
        if not self._tokens:
            return
        self._cursor = min(max(place, 0), len(self._tokens) - 1)
        self._show_cursor()
        self.viewport().update()
        self.setAccessibleDescription(f"{self._cursor}: {self._tokens[self._cursor].text}")
        self.pointed.emit(self._cursor)

    def lines(self) -> list[Line]:
        """As they are laid out in the width at hand."""
        return self._lines

    # Layout -----------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        metrics = QFontMetricsF(theme().font("mono"))
        bar = self.verticalScrollBar().sizeHint().width()  # room is kept for it: lines stay when it comes
        room = self.width() - bar - theme().px(ROLE) - theme().px(4)
        self._lines = list(lay_out(self._tokens, _measured(metrics), max(room, theme().px(60))))
        self._tops = [line.top for line in self._lines]
        self._line_of = [0] * len(self._tokens)
        for number in range(len(self._lines) - 1, -1, -1):
            for cell in self._lines[number].cells:
                self._line_of[cell.token] = number
        self._set_scroll_range()
        self.viewport().update()

    def _set_scroll_range(self) -> None:
        height = self._lines[-1].top + theme().px(LINE) if self._lines else 0
        bar = self.verticalScrollBar()
        bar.setPageStep(self.viewport().height())
        bar.setSingleStep(theme().px(LINE))
        bar.setRange(0, max(0, round(height) - self.viewport().height()))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self._lay_out()
        else:
            self._set_scroll_range()

    def sizeHint(self) -> QSize:
        return QSize(theme().px(480), theme().px(360))

    def _on_theme_changed(self) -> None:
        self._lay_out()

    # Keys and mouse ---------------------------------------------------------------------------------

    def keyPressEvent(self, event: QKeyEvent) -> None:
        match event.key():
            case Qt.Key.Key_Left:
                self._step(-1)
            case Qt.Key.Key_Right:
                self._step(1)
            case Qt.Key.Key_Up:
                self._step_line(-1)
            case Qt.Key.Key_Down:
                self._step_line(1)
            case Qt.Key.Key_Home:
                self.set_cursor(0)
            case Qt.Key.Key_End:
                self.set_cursor(len(self._tokens) - 1)
            case _:
                super().keyPressEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        place = self.token_at(event.position())
        if place is not None:
            self.set_cursor(place)

    def token_at(self, point: QPointF) -> int | None:
        """point: px in the viewport."""
        number = bisect.bisect_right(self._tops, point.y() + self.verticalScrollBar().value()) - 1
        if not 0 <= number < len(self._lines):
            return None
        x = point.x() - theme().px(ROLE)
        return next(
            (cell.token for cell in self._lines[number].cells if cell.x <= x < cell.x + cell.width), None
        )

    def scroll_page(self, by: int) -> bool:
        """A viewport up or down; False where it was at that end already."""
        bar = self.verticalScrollBar()
        before = bar.value()
        bar.setValue(before + by * (bar.pageStep() - bar.singleStep()))
        return bar.value() != before

    def _step(self, by: int) -> None:
        if not 0 <= self._cursor + by < len(self._tokens):
            self.page_asked.emit(by)
        else:
            self.set_cursor(self._cursor + by)

    def _step_line(self, by: int) -> None:
        if not self._lines:
            return
        at = self._line_of[self._cursor]
        x = next(cell.x for cell in self._lines[at].cells if cell.token == self._cursor)
        target = at + by
        while 0 <= target < len(self._lines) and self._lines[target].cells[0].token == self._cursor:
            target += by  # a token of several lines
        if not 0 <= target < len(self._lines):
            self.page_asked.emit(by)
            return
        cells = self._lines[target].cells
        self.set_cursor(min(cells, key=lambda cell: abs(cell.x - x)).token)

    def _show_cursor(self) -> None:
        line, bar = self._lines[self._line_of[self._cursor]], self.verticalScrollBar()
        if line.top < bar.value():
            bar.setValue(round(line.top))
        elif line.top + theme().px(LINE) > bar.value() + self.viewport().height():
            bar.setValue(round(line.top) + theme().px(LINE) - self.viewport().height())

    # How it looks -----------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        scrolled, inks = self.verticalScrollBar().value(), Inks(focused=self.hasFocus())
        first = max(0, bisect.bisect_right(self._tops, scrolled) - 1)
        for line in self._lines[first:]:
            top = line.top - scrolled
            if top > self.viewport().height():
                break
            if line.role:
                self._paint_role(painter, line.role, top)
            painter.setFont(inks.font)
            for cell in line.cells:
                box = QRectF(inks.left + cell.x, top + inks.above, cell.width, inks.height)
                paint_token(painter, inks, box, cell, self._tokens[cell.token].fate)
                if cell.token == self._cursor:
                    painter.setPen(inks.ring)
                    painter.setBrush(Qt.BrushStyle.NoBrush)
                    painter.drawRoundedRect(box.adjusted(-0.5, -1, 0.5, 1), _RADIUS + 1, _RADIUS + 1)

    def _paint_role(self, painter: QPainter, role: str, top: float) -> None:
        painter.setFont(theme().font("note", 500))
        painter.setPen(theme().color("text"))
        box = QRectF(0, top, theme().px(ROLE) - theme().px(6), theme().px(LINE))
        words = painter.fontMetrics().elidedText(
            visible_text(role, 60), Qt.TextElideMode.ElideRight, int(box.width())
        )
        painter.drawText(box, int(Qt.AlignmentFlag.AlignVCenter), words)


class Inks:
    """Colours and sizes of one painting, looked up once: there are hundreds of tokens in sight."""

    def __init__(self, *, focused: bool) -> None:
        look, colors = theme(), theme().colors
        self.font = look.font("mono")
        self.left, self.height = look.px(ROLE), look.px(BOX)
        self.above = (look.px(LINE) - self.height) / 2
        shades = {
            "learned": colors.token_learned,
            "avoided": colors.token_avoided,
            "context": colors.token_context,
            "cut": colors.token_cut,
        }
        self.grounds = {fate: tuple(QBrush(QColor(shade)) for shade in pair) for fate, pair in shades.items()}
        self.words = {fate: look.color("muted" if fate == "context" else "text") for fate in shades}
        self.hatch = QBrush(fade(colors.bad, 0.35), Qt.BrushStyle.BDiagPattern)
        self.underline = QPen(look.color("ok"), look.px(2))
        self.dashes = QPen(look.color("warn"), look.px(2), Qt.PenStyle.DotLine)
        self.strike = QPen(look.color("bad"), max(1.4, look.px(1.4)))
        self.ring = QPen(look.color("focus" if focused else "border_strong"), 2)


def paint_token(painter: QPainter, inks: Inks, box: QRectF, cell: Cell, fate: str) -> None:
    """Ground and words; learned is underlined, avoided dotted below, cut hatched and struck out.

    It is never told by colour alone.
    """
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(inks.grounds[fate][cell.token % 2])
    painter.drawRoundedRect(box, _RADIUS, _RADIUS)
    if fate == "cut":
        painter.setBrush(inks.hatch)
        painter.drawRoundedRect(box, _RADIUS, _RADIUS)
    painter.setPen(inks.words[fate])
    painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextSingleLine), cell.text)
    if fate in ("learned", "avoided"):
        painter.setPen(inks.underline if fate == "learned" else inks.dashes)
        painter.drawLine(box.bottomLeft() - QPointF(0, 1), box.bottomRight() - QPointF(0, 1))
    elif fate == "cut":
        painter.setPen(inks.strike)
        painter.drawLine(QPointF(box.left(), box.center().y()), QPointF(box.right(), box.center().y()))


def lay_out(tokens: Sequence[Token], width_of: Callable[[str], float], room: float) -> Iterator[Line]:
    """Lines of at most `room` px: a new one where it is full, after a line end, and for each turn."""
    line, gap = theme().px(LINE), theme().px(TURN_GAP)
    cells: list[Cell] = []
    top, x, role, opens = 0.0, 0.0, "", ""
    for number, token in enumerate(tokens):
        begins = token.role != role and bool(token.role)
        pieces = _pieces(drawn(token), width_of, room)
        for place, (text, width) in enumerate(pieces):
            if cells and ((begins and place == 0) or x + width > room):
                yield Line(tuple(cells), opens, top)
                top += line + (gap if begins and place == 0 else 0)
                cells, x, opens = [], 0.0, ""
            if begins and place == 0:
                role = opens = token.role
            cells.append(Cell(number, x, width, text))
            x += width
        if "\n" in token.text:
            yield Line(tuple(cells), opens, top)
            top += line
            cells, x, opens = [], 0.0, ""
    if cells:
        yield Line(tuple(cells), opens, top)


def drawn(token: Token) -> str:
    """Line ends and tabs as signs, control and direction characters as their code."""
    text = token.text.replace("\r\n", "↵").replace("\n", "↵").replace("\t", "⇥")
    return visible_text(text, LONGEST) or _ALREADY_SHOWN


def _pieces(text: str, width_of: Callable[[str], float], room: float) -> list[tuple[str, float]]:
    """The whole text, or parts of it that fit a line."""
    width = width_of(text)
    if width <= room or len(text) == 1:
        return [(text, width)]
    fitting = max(1, int(len(text) * room / width))
    while fitting > 1 and width_of(text[:fitting]) > room:
        fitting -= 1
    return [(text[:fitting], width_of(text[:fitting])), *_pieces(text[fitting:], width_of, room)]


def _measured(metrics: QFontMetricsF) -> Callable[[str], float]:
    """Most tokens of a row are seen more than once."""
    known: dict[str, float] = {}

    def width_of(text: str) -> float:
        if text not in known:
            known[text] = metrics.horizontalAdvance(text) + 2
        return known[text]

    return width_of
