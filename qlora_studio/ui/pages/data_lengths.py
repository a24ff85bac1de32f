"""How long the rows are in tokens, with the length limit as a line that one drags."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QBrush, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from qlora_studio.state.draft import RunDraft
from qlora_studio.ui.theme import fade, theme

STEP = 64  # tokens an arrow key moves the limit, and what dragging rounds to
KEY = "data.seq_len"
_ROOM_RIGHT = 1.08  # of the longest row: the line can be put beyond it
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000, 1_000_000)


class LengthHistogram(QWidget):
    """Square roots of the counts, so that the tail shows. The limit is the draft's `data.seq_len`.

    moved: the limit that the line stands at while it is dragged
    """

    moved = Signal(int)

    def __init__(self, draft: RunDraft, *, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._draft = draft
        self._bins: tuple[int, ...] = ()
        self._bin_width = 1
        self._words = ""
        self._dragging: int | None = None  # tokens, while the mouse is down
        self.setObjectName(name)
        self.setAccessibleName("Row lengths in tokens, with the length limit")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.SizeHorCursor)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        draft.changed.connect(self.update)
        theme().changed.connect(self.update)

    def show_counts(self, bins: Sequence[int], bin_width: int) -> None:
        """bins[i]: rows of i * bin_width to (i + 1) * bin_width tokens."""
        if (tuple(bins), bin_width) != (self._bins, self._bin_width):
            self._bins, self._bin_width, self._words = tuple(bins), max(bin_width, 1), ""
            self.setAccessibleDescription(f"{sum(bins):,} rows, up to {len(bins) * bin_width:,} tokens")
            self.update()

    def clear(self, words: str) -> None:
        """words: why there is nothing to show."""
        self._bins, self._words = (), words
        self.update()

    def limit(self) -> int:
        """In tokens, as it is drawn now."""
        return self._dragging if self._dragging is not None else int(self._draft.value(KEY))

    def x_of(self, tokens: float) -> float:
        """Where a length stands, in px."""
        area = self._area()
        return area.left() + area.width() * min(tokens / self._longest(), 1.0)

    # What a person does -----------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and self._bins:
            self._drag(event.position().x())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._dragging is not None:
            self._drag(event.position().x())

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        dragged, self._dragging = self._dragging, None
        if dragged is not None:
            self._draft.set(KEY, dragged)
            self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        moves = {Qt.Key.Key_Left: -STEP, Qt.Key.Key_Right: STEP}
        if event.key() in moves:
            self._draft.set(KEY, max(STEP, self.limit() + moves[Qt.Key(event.key())]))
            return
        super().keyPressEvent(event)

    def _drag(self, x: float) -> None:
        area = self._area()
        share = min(max((x - area.left()) / area.width(), 0.0), 1.0)
        self._dragging = max(STEP, round(share * self._longest() / STEP) * STEP)
        self.moved.emit(self._dragging)
        self.update()

    # How it looks -----------------------------------------------------------------------------------

    def sizeHint(self) -> QSize:
        return QSize(theme().px(300), theme().px(150))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(theme().font("note"))
        if not self._bins:
            painter.setPen(theme().color("muted"))
            painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignCenter), self._words)
            return
        self._paint_axes(painter)
        self._paint_bars(painter)
        self._paint_limit(painter)
        if self.hasFocus():
            painter.setPen(QPen(theme().color("focus"), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 6, 6)

    def _paint_axes(self, painter: QPainter) -> None:
        area, most = self._area(), max(self._bins)
        painter.setPen(theme().color("muted"))
        room, line = area.height(), painter.fontMetrics().height()
        last_y = math.inf
        right = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        for tick in _TICKS:
            y = area.bottom() - room * math.sqrt(tick / most)
            if tick <= most and last_y - y >= theme().px(18):
                last_y = y
                box = QRectF(0, y - line / 2, area.left() - 6, line)
                painter.drawText(box, right, _short(tick))
        step = _nice_step(self._longest() / max(area.width() / theme().px(70), 1))
        for tokens in range(0, int(self._longest()) + 1, step):
            box = QRectF(self.x_of(tokens) - 3 * line, area.bottom() + 3, 6 * line, line)
            painter.drawText(box, int(Qt.AlignmentFlag.AlignHCenter), f"{tokens:,}")
        painter.setPen(QPen(theme().color("border"), 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        painter.drawLine(area.topLeft(), area.bottomLeft())

    def _paint_bars(self, painter: QPainter) -> None:
        area, most, limit = self._area(), max(self._bins), self.limit()
        for place, count in enumerate(self._bins):
            if not count:
                continue
            left, right = self.x_of(place * self._bin_width), self.x_of((place + 1) * self._bin_width)
            height = max(area.height() * math.sqrt(count / most), 2.0)
            bar = QRectF(left + 0.5, area.bottom() - height, max(right - left - 1.5, 1.0), height)
            if place * self._bin_width < limit:
                painter.fillRect(bar, theme().colors.series[0])
            else:
                painter.setPen(QPen(theme().color("bad"), 1))
                painter.setBrush(QBrush(theme().color("bad"), Qt.BrushStyle.BDiagPattern))
                painter.drawRect(bar)

    def _paint_limit(self, painter: QPainter) -> None:
        area, x = self._area(), self.x_of(self.limit())
        painter.setPen(QPen(theme().color("limit"), 2))
        painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
        words = f"◂ {self.limit():,} ▸"
        width = painter.fontMetrics().horizontalAdvance(words)
        left = x + 6 if x + 6 + width < self.width() else x - 6 - width
        ground = QRectF(left - 2, area.top(), width + 4, painter.fontMetrics().height())
        painter.fillRect(ground, fade(theme().color("surface"), 0.85))  # bars stand behind the words
        painter.drawText(QPointF(left, area.top() + painter.fontMetrics().ascent()), words)

    def _area(self) -> QRectF:
        px = theme().px
        return QRectF(self.rect()).adjusted(px(38), px(8), -px(10), -px(22))

    def _longest(self) -> float:
        """Tokens at the right edge."""
        return max(len(self._bins) * self._bin_width, int(self._draft.value(KEY))) * _ROOM_RIGHT


def _short(number: int) -> str:
    return f"{number // 1000}k" if number >= 1000 else str(number)


def _nice_step(least: float) -> int:
    """128, 256, 512, ...: at least `least` tokens between two ticks."""
    step = 16
    while step < least:
        step *= 2
    return step
