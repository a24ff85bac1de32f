"""A chart in the theme's colours, fast with a million points. Import it where you draw: it loads numpy."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QPen, QWheelEvent
from PySide6.QtWidgets import QWidget

from qlora_studio.ui.theme import theme

pg.setConfigOptions(antialias=True, useNumba=False)

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


class ChartView(pg.PlotWidget):  # type: ignore[misc]  # pyqtgraph has no types
    """Axes, grid and ticks of the theme; a plain wheel scrolls the page, Ctrl and wheel zooms.

    Draw with `add_line`, whose pen may be a token of the theme or the number of a series, and which follows a
    change of theme. Override `recolor` to renew what you drew otherwise.
    """

    def __init__(self, *, name: str, label: str, parent: QWidget | None = None) -> None:
        super().__init__(parent, enableMenu=False)  # menus that nobody sees take half the time to build
        self.setObjectName(name)
        self.setAccessibleName(label)
        self._lines: list[tuple[pg.PlotDataItem, str | int, float, str]] = []
        self.setMenuEnabled(False)
        self.hideButtons()
        self.setFrameShape(self.Shape.NoFrame)
        self.viewport().setAutoFillBackground(False)
        item = self.getPlotItem()
        item.setContentsMargins(0, 4, 8, 0)
        for side in ("left", "bottom"):
            item.getAxis(side).setStyle(tickLength=-4, autoExpandTextSpace=True)
        item.getAxis("bottom").enableAutoSIPrefix(False)
        item.getAxis("left").enableAutoSIPrefix(False)
        item.setDownsampling(auto=True, mode="peak")
        item.setClipToView(True)
        self.recolor()
        theme().changed.connect(self.recolor)

    def add_line(
        self, color: str | int = 0, width: float = 2.2, symbol: str = "", *, name: str = ""
    ) -> pg.PlotDataItem:
        """color: a token ("raw_line") or a series 0 to 5. Values: `line.setData(x, y)`; NaN is a gap."""
        line = self.plot(name=name, connect="finite")
        line.setDownsampling(auto=True, method="peak")
        line.setClipToView(True)
        self._lines.append((line, color, width, symbol))
        self._color_line(line, color, width, symbol)
        return line

    def recolor(self) -> None:
        """The colours of the theme in force, on everything drawn."""
        colors = theme().colors
        self.setBackground(None)
        item = self.getPlotItem()
        for side in ("left", "bottom"):
            axis = item.getAxis(side)
            axis.setPen(pg.mkPen(colors.border, width=1))
            axis.setTextPen(pg.mkPen(colors.muted))
            axis.setTickFont(theme().font("note"))
            axis.setTickPen(pg.mkPen(colors.grid))
        item.showGrid(x=True, y=True, alpha=0.5)
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


class ThousandsAxis(pg.AxisItem):  # type: ignore[misc]
    """Ticks with thousands commas: 1,500."""

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        places = max(0, -int(np.floor(np.log10(spacing * scale)))) if spacing > 0 else 0
        return [f"{value * scale:,.{places}f}" for value in values]
