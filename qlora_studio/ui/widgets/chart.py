"""A chart in the theme's colours, fast with a million points. Import it where you draw: it loads numpy."""

from __future__ import annotations

from enum import IntEnum

import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QPen, QWheelEvent
from PySide6.QtWidgets import QGraphicsGridLayout, QGraphicsScene, QSizePolicy, QWidget

from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets.axis import ChartAxis

pg.setConfigOptions(antialias=True, useNumba=False)

_AXIS_WIDTH, _AXIS_HEIGHT = 46, 22  # px at 100 %
_UNDER_BOX = -200  # pyqtgraph puts its box to -100
MARKERS = ("o", "s", "t", "d", "+", "x")


class LineStyle(IntEnum):
    """How series 1 to 6 differ besides colour."""

    SOLID = 0
    DASH = 1
    DOT = 2
    DASH_DOT = 3
    LONG_DASH = 4
    THIN = 5


_DASHES: dict[LineStyle, list[float]] = {
    LineStyle.DASH: [5, 2.5],
    LineStyle.DOT: [1.5, 1.5],
    LineStyle.DASH_DOT: [5, 2, 1, 2],
    LineStyle.LONG_DASH: [9, 3],
}


def series_pen(number: int, width: float = 2.2) -> QPen:
    """Pen of series 0 to 5 in the theme in force."""
    style = LineStyle(number % len(LineStyle))
    pen: QPen = pg.mkPen(theme().colors.series[style], width=1.2 if style is LineStyle.THIN else width)
    if style in _DASHES:
        pen.setDashPattern(_DASHES[style])
    return pen


class ChartView(pg.GraphicsView):  # type: ignore[misc]  # pyqtgraph has no types
    """Axes, grid and ticks of the theme; a plain wheel scrolls the page, Ctrl and wheel zooms.

    Draw with `add_line`, whose pen may be a token of the theme or the number of a series, and which follows a
    change of theme. Override `recolor` to renew what you drew otherwise.

    box:  what is drawn stands in it
    axes: "left" and "bottom"

    pyqtgraph's PlotWidget has four axes, a title and menus of fifty widgets besides, and takes three times as
    long to build.
    """

    def __init__(
        self, left: ChartAxis, bottom: ChartAxis, *, name: str, label: str, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent, background=None)
        self.setObjectName(name)
        self.setAccessibleName(label)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFrameShape(self.Shape.NoFrame)
        self.viewport().setAutoFillBackground(False)
        self.enableMouse(False)
        # An axis' bounds follow the box's without a word to the scene: an index keeps axes that are gone.
        self.scene().setItemIndexMethod(QGraphicsScene.ItemIndexMethod.NoIndex)
        self._lines: list[tuple[pg.PlotDataItem, str | int, float, str]] = []
        self.box = pg.ViewBox(enableMenu=False)
        self.axes: dict[str, ChartAxis] = {}
        area = pg.GraphicsWidget()
        self._grid = QGraphicsGridLayout()
        self._grid.setContentsMargins(0, 4, 8, 0)
        self._grid.setSpacing(0)
        self._grid.addItem(self.box, 0, 1)
        area.setLayout(self._grid)
        self.setCentralItem(area)
        self.set_axes(left, bottom)
        self.recolor()
        theme().changed.connect(self.recolor)

    def set_axes(self, left: ChartAxis, bottom: ChartAxis) -> None:
        """In place of those it has. `recolor` gives them their look."""
        for old in self.axes.values():
            self._grid.removeItem(old)
            old.unlinkFromView()
            self.scene().removeItem(old)
        self.axes = {"left": left, "bottom": bottom}
        for axis, place in ((left, (0, 0)), (bottom, (1, 1))):
            axis.enableAutoSIPrefix(False)
            axis.setZValue(_UNDER_BOX)  # the grid lies under what is drawn
            axis.linkToView(self.box)
            axis.linkedViewChanged(self.box)  # it hears of changes alone
            self._grid.addItem(axis, *place)

    def addItem(self, item: pg.GraphicsObject) -> None:
        """Into the box, whose range it doesn't change."""
        self.box.addItem(item, ignoreBounds=True)

    def removeItem(self, item: pg.GraphicsObject) -> None:
        """Out of the box."""
        self.box.removeItem(item)

    def add_line(self, color: str | int = 0, width: float = 2.2, symbol: str = "") -> pg.PlotDataItem:
        """color: a token ("raw_line") or a series 0 to 5. Values: `line.setData(x, y)`; NaN is a gap."""
        line = pg.PlotDataItem(connect="finite")
        self.addItem(line)
        self._lines.append((line, color, width, symbol))
        self._color_line(line, color, width, symbol)
        return line

    def recolor(self) -> None:
        """The colours of the theme in force, on everything drawn."""
        colors = theme().colors
        for axis in self.axes.values():
            axis.setPen(pg.mkPen(colors.border, width=1))
            axis.setTextPen(pg.mkPen(colors.muted))
            axis.setTickFont(theme().font("note"))
        self.axes["left"].setWidth(theme().px(_AXIS_WIDTH))  # fixed: no layout at each move
        self.axes["bottom"].setHeight(theme().px(_AXIS_HEIGHT))
        for line in self._lines:
            self._color_line(*line)

    def pen(self, color: str | int, width: float) -> QPen:
        if isinstance(color, int):
            return series_pen(color, width)
        pen: QPen = pg.mkPen(theme().color(color), width=width)
        return pen

    def wheelEvent(self, event: QWheelEvent) -> None:
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            super().wheelEvent(event)
        else:
            event.ignore()  # the page scrolls

    def _color_line(self, line: pg.PlotDataItem, color: str | int, width: float, symbol: str) -> None:
        pen = self.pen(color, width)
        line.setPen(pen)
        if symbol:
            line.setSymbol(symbol)
            line.setSymbolSize(7)
            line.setSymbolPen(pg.mkPen(pen.color(), width=1.6))
            line.setSymbolBrush(pg.mkBrush(theme().colors.surface))
