"""The axes of a chart: a faint line across it at round values, and numbers that never lie on each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFontMetricsF, QPainter

from qlora_studio.ui.theme import blended, theme

_GRID = 0.5  # how much of the grid is seen
_LINES_APART = 1.25  # of a line's height, from one number of a left axis to the next
_MOST_NUMBERS = 9  # on a left axis
_FINEST = 1e-3  # of a left axis' greatest number, between two of them: more digits have no room
_WORDS_APART = 24  # px at 100 % between two numbers of a bottom axis
_FROM_EDGE = (5, 2)  # px from the box to the numbers of a left and of a bottom axis


class ChartAxis(pg.AxisItem):  # type: ignore[misc]  # pyqtgraph has no types
    """A left or bottom axis. Override `tickStrings`, `round_step` where other numbers are round, or
    `tickValues` for other than evenly spaced ones.

    pyqtgraph's own way to draw, three levels of ticks that are recorded and played, took a third of each
    frame while charts were moved.
    """

    least_step = 0.0  # of what is measured, from one number to the next
    bases: tuple[float, ...] = (1, 2, 2.5, 5, 10)  # of such steps, times a power of ten

    def tickValues(self, low: float, high: float, size: float) -> list[tuple[float, list[float]]]:
        """size: px. As many round values as have room."""
        step = self.round_step(self._least_apart(low, high, size))
        numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        return [(step, [number * step for number in numbers])]

    def round_step(self, least: float) -> float:
        """From one number to the next; both of what is measured."""
        return round_step(max(least, self.least_step), self.bases)

    def _least_apart(self, low: float, high: float, size: float) -> float:
        metrics = QFontMetricsF(theme().font("note"))
        of_a_pixel = (high - low) / max(size, 1.0)
        if self.orientation == "left":
            pixels = max(metrics.height() * _LINES_APART, size / _MOST_NUMBERS)
            return max(pixels * of_a_pixel, _magnitude(max(-low, high)) * _FINEST)
        words = self.tickStrings([low, high], 1.0, self.round_step((high - low) / 5))
        return (max(map(metrics.horizontalAdvance, words)) + theme().px(_WORDS_APART)) * of_a_pixel

    def boundingRect(self) -> QRectF:
        """With the box, over which the grid goes, and room for a number at its corner."""
        view = self.linkedView()
        if view is None:  # not in a chart yet, or no more
            return QRectF(self.rect())
        box: QRectF = view.geometry().translated(-self.pos())
        return box.united(self.rect()).adjusted(-40, -20, 40, 20)

    def paint(self, painter: QPainter, *_: object) -> None:
        low, high = self.range
        if self.linkedView() is None or not low < high or not math.isfinite(high - low):
            return
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setFont(self.style["tickFont"])
        if self.orientation == "left":
            self._paint_left(painter, low, high)
        else:
            self._paint_bottom(painter, low, high)
        painter.restore()

    def _paint_left(self, painter: QPainter, low: float, high: float) -> None:
        place, size = self.rect(), self.size().height()
        end = place.right() + self.linkedView().size().width()
        ticks, words = self._ticks(low, high, size)
        heights = [place.bottom() - (tick - low) / (high - low) * size for tick in ticks]
        lines = [(QPointF(place.right(), y), QPointF(end, y)) for y in heights]
        metrics = QFontMetricsF(self.style["tickFont"])
        line, right = metrics.height(), place.right() - _FROM_EDGE[0]
        rooms = [QRectF(0, y - line / 2, right, line) for y in heights]
        self._draw(painter, lines, rooms, words, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        painter.setPen(self.pen())
        painter.drawLine(place.topRight(), place.bottomRight())

    def _paint_bottom(self, painter: QPainter, low: float, high: float) -> None:
        place, size = self.rect(), self.size().width()
        end = place.top() - self.linkedView().size().height()
        ticks, words = self._ticks(low, high, size)
        places = [place.left() + (tick - low) / (high - low) * size for tick in ticks]
        lines = [(QPointF(x, place.top()), QPointF(x, end)) for x in places]
        metrics = QFontMetricsF(self.style["tickFont"])
        widths = map(metrics.horizontalAdvance, words)
        top, line = place.top() + _FROM_EDGE[1], metrics.height()
        rooms = [QRectF(x - width / 2, top, width, line) for x, width in zip(places, widths, strict=True)]
        self._draw(painter, lines, rooms, words, Qt.AlignmentFlag.AlignCenter)
        painter.setPen(self.pen())
        painter.drawLine(place.topLeft(), place.topRight())

    def _ticks(self, low: float, high: float, size: float) -> tuple[list[float], list[str]]:
        ((step, ticks),) = self.tickValues(low, high, size)
        return ticks, self.tickStrings(ticks, 1.0, step)

    def _draw(
        self,
        painter: QPainter,
        lines: Sequence[tuple[QPointF, QPointF]],
        rooms: Sequence[QRectF],
        words: Sequence[str],
        align: Qt.AlignmentFlag,
    ) -> None:
        painter.setPen(pg.mkPen(blended(theme().color("grid"), theme().color("surface"), _GRID)))
        for start, end in lines:
            painter.drawLine(start, end)
        painter.setPen(self.textPen())
        whole = self.parentItem().rect().translated(-self.pos())
        for room, text in zip(rooms, words, strict=True):
            room.moveRight(min(room.right(), whole.right()))  # the last of a bottom axis
            if whole.contains(room):
                painter.drawText(room, int(align | Qt.TextFlag.TextDontClip), text)


class ThousandsAxis(ChartAxis):
    """Ticks with thousands commas: 1,500."""

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        return [f"{value * scale:,.{places_of(spacing * scale)}f}" for value in values]


def round_step(least: float, bases: tuple[float, ...] = ChartAxis.bases) -> float:
    """The next of `bases`, 1 to 10, times a power of ten."""
    power = _magnitude(least)
    return next(base * power for base in bases if base * power >= least)


def places_of(step: float) -> int:
    """Digits behind the point that multiples of a round step need: 0 for 20, 1 for 2.5, 2 for 0.05."""
    if step <= 0:
        return 0
    power = math.floor(math.log10(step) + 1e-9)
    halves = abs(step / 10.0**power - 2.5) < 1e-6
    return max(0, halves - power)


def _magnitude(value: float) -> float:
    """The power of ten below it."""
    return 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
