"""Memory of each step, its parts stacked from below, under the promise and the device's limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QBrush

from qlora_studio.state.curves import PARTS, Points
from qlora_studio.ui.pages.monitor_chart import ShortAxis, StepChart
from qlora_studio.ui.pages.monitor_stretch import Stretch
from qlora_studio.ui.theme import readable_on, theme
from qlora_studio.ui.widgets.strokes import Area

GIB = 2**30
_LIMIT_IN_SIGHT = 3.0  # times what is used: a limit further away is written at the edge instead
_BETWEEN_WORDS = 10  # px at 100 %
_WRITTEN_FROM = 0.09  # of the chart's height: thinner parts have no word in them


class MemoryChart(StepChart):
    """limit and promise: bytes, where known."""

    def __init__(self, stretch: Stretch) -> None:
        self._areas = {part: Area() for part in PARTS}
        self._others, self._in_ram, self._on_card = Area(), Area(), Area()
        self._words = {part: pg.TextItem(part, anchor=(0, 0.5)) for part in PARTS}
        self._levels = {
            "limit": _Level("limit", Qt.PenStyle.DashLine),
            "promise": _Level("text", Qt.PenStyle.DotLine),
        }
        self._spike_bars = pg.PlotCurveItem(connect="pairs")
        self._spike_marks = pg.ScatterPlotItem(symbol="t", size=10, pxMode=True)
        self._letters: list[pg.TextItem] = []
        self._high, self._far = 1.0, False
        super().__init__(stretch, name="monitor_vram", label="Memory", left_axis=ShortAxis("left"))
        # The highest stack first, the lowest over it. Of the optimizer what is in RAM is hatched.
        optimizer = list(PARTS).index("optimizer")
        stacks = list(self._areas.values())
        below, above = stacks[: optimizer + 1], stacks[optimizer + 1 :]
        self._strokes.areas += [self._others, *reversed(above), below.pop(), self._in_ram, self._on_card]
        self._strokes.areas += reversed(below)
        for guest in (*self._words.values(), self._spike_bars, self._spike_marks):
            self.addItem(guest)
        for level in self._levels.values():
            self.addItem(level.line)
            self.addItem(level.label)
        self.recolor()

    def set_levels(self, limit_words: str, limit: int | None, promise: int | None) -> None:
        """limit_words: what the limit is of: "card limit" or "RAM"."""
        self._levels["limit"].set(limit_words, limit)
        self._levels["promise"].set("promised", promise)
        self.redraw()

    def draw_more(self, points: Points, low: float, high: float) -> tuple[float, float]:
        first, last = self.in_sight()
        places = points.peaks["memory_needed"].highest(first, last, self.columns())
        total = points.memory_total[places] + points.others[places]
        top = float(total.max()) / GIB if len(places) else 0.0
        stacked = self._draw_areas(points, places)
        promise, limit = (self._levels[name].gib or 0.0 for name in ("promise", "limit"))
        top = max(top, promise)
        far = limit > _LIMIT_IN_SIGHT * max(top, 0.1)
        high = max(top * (1.22 if points.spikes else 1.14), 0.0 if far else limit * 1.03)
        self._write_parts(stacked, high)
        self._draw_spikes(points, places, high)
        self._high, self._far = high or 1.0, far
        return 0.0, self._high

    def _show_range(self, low: float, high: float) -> None:
        self.set_range(0.0, high)
        self._place_levels()

    def _place_levels(self) -> None:
        """Words at the right, above their lines; where the two would touch, the promise's at the left of
        the limit's. A limit out of sight is named at the left.
        """
        limit, promise = self._levels["limit"], self._levels["promise"]
        left, right = max(self._stretch.first, 0.0), self._stretch.last
        limit.place(left if self._far else right, self._high, far=self._far)
        promise.place(right, self._high)
        if limit.touches(promise):
            step = self.box.viewPixelSize()[0]
            promise.place(right - (limit.width() + theme().px(_BETWEEN_WORDS)) * step, self._high)

    def _draw_areas(self, points: Points, places: NDArray[Any]) -> dict[str, float]:
        """Each step as wide as it is: one alone is seen too. Gives the middle of each part, in GiB."""
        steps = points.steps[places].astype("float64")
        edges = np.concatenate((steps - 0.5, [steps[-1] + 0.5])) if len(steps) else steps
        x = np.repeat(edges, 2)[1:-1] if len(steps) else edges
        below = np.zeros(len(places))
        middles = {}
        for part in PARTS:
            values = points.memory.get(part)
            if part == "optimizer" and (values is None or not len(places)):
                self._hatch_in_ram(x, below[:0], below[:0])
            if values is None or not len(places):
                self._areas[part].x = self._areas[part].y = below[:0]
                continue
            stack = below + values[places] / GIB
            self._areas[part].x, self._areas[part].y = x, np.repeat(stack, 2)
            middles[part] = _middle(below + stack) / 2
            middles[f"{part} high"] = _middle(stack - below)
            below = stack
            if part == "optimizer":
                self._hatch_in_ram(x, stack, points.in_ram[places] / GIB)
        others = points.others[places] / GIB
        shown = bool(len(places)) and bool(others.any())
        self._others.x = x if shown else x[:0]
        self._others.y = np.repeat(below + others, 2) if shown else x[:0]
        return middles

    def _hatch_in_ram(self, x: NDArray[Any], stack: NDArray[Any], in_ram: NDArray[Any]) -> None:
        """stack: GiB up to the optimizer's upper edge; in_ram: of it, not on the card."""
        shown = bool(in_ram.any())
        self._in_ram.x = self._on_card.x = x if shown else x[:0]
        self._in_ram.y = np.repeat(stack, 2) if shown else x[:0]
        self._on_card.y = np.repeat(stack - in_ram, 2) if shown else x[:0]

    def _write_parts(self, stacked: dict[str, float], high: float) -> None:
        points, width = self._stretch.points, self._stretch.last - self._stretch.first
        start = float(points.steps[0]) - 0.5 if len(points) else 0.0
        at = max(self._stretch.first, start) + width * 0.012
        seen = points.last_step - at > 0.12 * width
        for part, label in self._words.items():
            shown = seen and stacked.get(f"{part} high", 0.0) > _WRITTEN_FROM * high
            label.setVisible(shown)
            if shown:
                label.setPos(at, stacked[part])

    def _draw_spikes(self, points: Points, places: NDArray[Any], high: float) -> None:
        for label in self._letters:
            self.removeItem(label)
        self._letters = []
        first, last = self._stretch.first, self._stretch.last
        x, y = [], []
        for letter, place in zip("ABCDEFGHIJ", points.spikes, strict=False):
            step, gib = float(points.steps[place]), float(points.memory_needed[place]) / GIB
            if first <= step <= last:
                x.append(step)
                y.append(gib)
                label = pg.TextItem(letter, anchor=(0.5, 1.35), color=theme().color("warn"))
                label.setFont(theme().font("label", 700))
                label.setPos(step, gib + 0.02 * high)
                self.addItem(label)
                self._letters.append(label)
        foot = _middle(points.memory_needed[places]) / GIB if y else 0.0
        self._spike_bars.setData(np.repeat(x, 2), np.ravel([(foot, top) for top in y]))
        self._spike_marks.setData(x=x, y=[top + 0.02 * high for top in y])

    def recolor(self) -> None:
        super().recolor()
        colors = theme().colors
        for part, area in self._areas.items():
            color = getattr(colors, f"vram_{part}")
            area.brush = pg.mkBrush(color)
            self._words[part].setColor(readable_on(color, colors))
            self._words[part].setFont(theme().font("note", 600))
        self._on_card.brush = self._areas["optimizer"].brush
        self._in_ram.brush = QBrush(theme().color("text"), Qt.BrushStyle.BDiagPattern)
        self._others.brush = QBrush(theme().color("vram_other"), Qt.BrushStyle.Dense5Pattern)
        for level in self._levels.values():
            level.recolor()
        self._spike_bars.setPen(pg.mkPen(colors.warn, width=3))
        self._spike_marks.setBrush(pg.mkBrush(colors.warn))
        self._spike_marks.setPen(pg.mkPen(None))


def _middle(values: NDArray[Any]) -> float:
    """One of the two in the middle. (numpy's median loads 60 ms of masked arrays when it is first asked.)"""
    half = len(values) // 2
    return float(np.partition(values, half)[half])


class _Level:
    """A line across the chart with its words at the right."""

    def __init__(self, color: str, style: Qt.PenStyle) -> None:
        self.gib: float | None = None
        self.line = pg.InfiniteLine(angle=0, movable=False)
        self.line.setZValue(15)
        self.label = pg.TextItem("", anchor=(1, 0))
        self.label.setZValue(16)
        self._color, self._style = color, style
        self._words = self._written = ""
        self.line.hide()
        self.label.hide()

    def set(self, words: str, size: int | None) -> None:
        self.gib = size / GIB if size else None
        self._words = f"{words} {self.gib:.1f}" if self.gib else ""
        self._write(self._words)
        self.line.setVisible(bool(self.gib))
        self.label.setVisible(bool(self.gib))

    def place(self, x: float, high: float, *, far: bool = False) -> None:
        """far: it lies above what is in sight, and is only named there."""
        if self.gib is None:
            return
        self.line.setVisible(not far)
        self.line.setValue(self.gib)
        self._write(f"↑ {self._words}" if far else self._words)
        self.label.setAnchor((0, 0) if far else (1, 0) if self.gib > 0.9 * high else (1, 1))
        self.label.setPos(x, high if far else self.gib)

    def touches(self, other: _Level) -> bool:
        """Whether the words of the two lie on each other."""
        seen = self.label.isVisible() and other.label.isVisible()
        return seen and self._place_of_words().intersects(other._place_of_words())

    def width(self) -> float:
        """px of its words."""
        return float(self.label.boundingRect().width())

    def _place_of_words(self) -> QRectF:
        place: QRectF = self.label.sceneBoundingRect()
        return place

    def _write(self, words: str) -> None:
        if words != self._written:
            self._written = words
            self.label.setText(words)

    def recolor(self) -> None:
        color = theme().color(self._color)
        self.line.setPen(pg.mkPen(color, width=1.5, style=self._style))
        self.label.setColor(color)
        self.label.setFont(theme().font("note"))
