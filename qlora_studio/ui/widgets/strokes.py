"""Curves and areas of a chart, painted in one pass in the pixels of its box.

pyqtgraph's own items each ask for bounds and transforms in Python at every move; six charts of them took most
of a frame. What stands still (marks, words, levels) is pyqtgraph's all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QBrush, QPainter, QPainterPath, QPen
from PySide6.QtWidgets import QGraphicsItem, QStyleOptionGraphicsItem, QWidget

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNDER_ITEMS = -1  # those of the box stand at 0
_DOT = 3.0  # px, radius
_ROUGH = 4.0  # px up and down for each px across: such a curve fills its band, however thin it is drawn
_THIN = 1.0  # px: Qt has a way of its own for these; a rough curve of 1.4 px took 180 ms instead of 2


class Stroke:
    """A curve. NaN is a gap; one value alone is a dot."""

    def __init__(self, pen: QPen) -> None:
        self.pen = pen
        self.x: NDArray[Any] = np.empty(0)
        self.y: NDArray[Any] = np.empty(0)
        self.path = QPainterPath()
        self.rough = False


class Area:
    """All below a curve."""

    def __init__(self) -> None:
        self.brush = QBrush()
        self.x: NDArray[Any] = np.empty(0)
        self.y: NDArray[Any] = np.empty(0)
        self.path = QPainterPath()


class Strokes(QGraphicsItem):
    """Areas, in their order, and the curves over them. After a change of what they hold: `fit`.

    fine: with smooth edges. Without, a frame is painted in a third of the time: while charts are moved.
    """

    def __init__(self, box: pg.ViewBox) -> None:
        super().__init__(box)
        self.setZValue(_UNDER_ITEMS)
        self.fine = True
        self.areas: list[Area] = []
        self.strokes: list[Stroke] = []
        self._box = box
        self._room = QRectF()
        self._shown = ((0.0, 1.0), (0.0, 1.0))
        box.sigResized.connect(self._on_resized)

    def fit(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        """What is in sight, in the values' own units."""
        self._shown = (across, up)
        self._shape()

    def boundingRect(self) -> QRectF:
        return self._room

    def paint(self, painter: QPainter, _: QStyleOptionGraphicsItem, __: QWidget | None = None) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, self.fine)
        for area in self.areas:
            painter.fillPath(area.path, area.brush)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for stroke in self.strokes:
            painter.setPen(thin(stroke.pen) if stroke.rough else stroke.pen)
            painter.drawPath(stroke.path)

    def _on_resized(self) -> None:
        if self._box.rect() != self._room:
            self._shape()

    def _shape(self) -> None:
        if self._box.rect() != self._room:
            self.prepareGeometryChange()
            self._room = self._box.rect()
        for stroke in self.strokes:
            x, y = self._pixels(stroke.x, stroke.y)
            stroke.path = pg.arrayToQPath(x, y, connect="finite")
            stroke.rough = is_rough(y, self._room.width())
            if len(x) == 1 and np.isfinite(y[0]):
                stroke.path.addEllipse(QPointF(x[0], y[0]), _DOT, _DOT)
        for area in self.areas:
            x, y = self._pixels(area.x, area.y)
            ground = self._room.bottom()
            closed = np.concatenate((x[:1], x, x[-1:])), np.concatenate(([ground], y, [ground]))
            area.path = pg.arrayToQPath(*closed, connect="all") if len(x) else QPainterPath()
        self.update()

    def _pixels(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        (first, last), (low, high) = self._shown
        across = self._room.width() / (last - first)
        up = self._room.height() / (high - low)
        return (x - first) * across + self._room.left(), self._room.bottom() - (y - low) * up


def is_rough(y: NDArray[Any], width: float) -> bool:
    """Whether a curve goes up and down so much that it fills its band. All in px; width: that it crosses."""
    return bool(np.nansum(np.abs(np.diff(y))) > _ROUGH * width)


def thin(pen: QPen) -> QPen:
    """For a rough curve."""
    thinner = QPen(pen)
    thinner.setWidthF(min(pen.widthF(), _THIN))
    return thinner
