"""Chosen runs over each other: line style, marker and a label at its end tell each from the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QSize
from PySide6.QtGui import QColor, QFontMetrics, QPen, QResizeEvent, QShowEvent

from qlora_studio.plain_text import visible_line
from qlora_studio.state.curves import Points
from qlora_studio.state.run_differences import short_names
from qlora_studio.state.runs import Compared
from qlora_studio.ui.pages.monitor_chart import LossAxis, PowerAxis, ShortAxis, StepsAxis, in_powers
from qlora_studio.ui.theme import fade, theme
from qlora_studio.ui.widgets.axis import ChartAxis, places_of, round_step
from qlora_studio.ui.widgets.chart import MARKERS, ChartView, series_pen
from qlora_studio.ui.widgets.strokes import is_rough, thin

METRICS = (
    ("evaluation", "Evaluation loss"),
    ("loss", "Loss, smoothed"),
    ("learning_rate", "Learning rate"),
    ("grad_norm", "Gradient norm"),
    ("memory", "Memory, GiB"),
)
AXES = (("steps", "Steps"), ("tokens", "Tokens"), ("time", "Time"))

_COLUMNS = 1_200  # of points a curve is cut down to
_MARKED = 60  # points that still get a marker each
_LABEL_HEIGHT = 0.075  # of the height, between two labels
_BESIDE_MARKER = 5  # px at 100 % from the end of a curve to its words: the marker stands between
_HALF_MARKER = 6  # px at 100 %, with its edge
_LONGEST_LABEL = 30  # characters
_TIMES = ((3600, "h"), (60, "min"), (1, "s"))
_WITHIN_AN_HOUR = tuple(part * unit for unit in (1, 60) for part in (1, 2, 5, 10, 15, 30))  # s
_AXES = {"learning_rate": PowerAxis, "grad_norm": ShortAxis, "memory": ShortAxis}


@dataclass(frozen=True)
class _Curve:
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class _Line:
    """pen: as it is drawn where it isn't rough."""

    item: pg.PlotDataItem
    curve: _Curve
    pen: QPen


@dataclass(frozen=True)
class _End:
    """Where a curve ends, and what stands there."""

    x: float
    y: float
    words: str
    color: QColor


class RunsChart(ChartView):
    """Drag moves it, Ctrl and the wheel zoom, a double click shows all."""

    def __init__(self) -> None:
        self._drawn: list[pg.GraphicsObject] = []
        self._lines_drawn: list[_Line] = []
        self._compared: Sequence[Compared] = ()
        self._metric, self._across = METRICS[0][0], AXES[0][0]
        self._zoomed = False  # the person chose what is in sight
        super().__init__(LossAxis(), StepsAxis(), name="runs_compare_chart", label="Chosen runs compared")
        self.box.sigRangeChangedManually.connect(self._on_zoomed)

    def show_runs(self, compared: Sequence[Compared], metric: str, across: str) -> None:
        """metric: of METRICS; across: of AXES."""
        others = [run.run.folder for run in compared] != [run.run.folder for run in self._compared]
        if others or (metric, across) != (self._metric, self._across):
            self._zoomed = False
        self._compared, self._metric, self._across = compared, metric, across
        left = _AXES.get(metric)
        bottom = TimeAxis("bottom") if across == "time" else StepsAxis()
        if across == "tokens":
            bottom = MillionsAxis("bottom")
        self.set_axes(left("left") if left else LossAxis(), bottom)
        self.recolor()

    def sizeHint(self) -> QSize:
        return QSize(theme().px(200), self.minimumHeight())

    def mouseDoubleClickEvent(self, event: object) -> None:
        self._zoomed = False
        self._draw()

    def _on_zoomed(self, _: object) -> None:
        self._zoomed = True
        self._choose_pens()

    def recolor(self) -> None:
        super().recolor()
        self._draw()

    def _draw(self) -> None:
        for item in self._drawn:
            self.removeItem(item)
        self._drawn = []
        self._lines_drawn = []
        ends: list[_End] = []
        spans: list[_Curve] = []
        names = short_names([_cut(run.run.name) for run in self._compared])
        for run in self._compared:
            if run.points is None or not len(run.points):
                continue
            if self._metric == "evaluation":
                faint = _curve(run.points, "loss", self._across)
                self._add(faint, pg.mkPen(fade(series_pen(run.series).color(), 0.35), width=1))
                spans.append(faint)
            curve = _curve(run.points, self._metric, self._across)
            if not len(curve.x):
                continue
            marker = MARKERS[run.series % len(MARKERS)] if len(curve.x) <= _MARKED else None
            self._add(curve, series_pen(run.series, 2.4), marker)
            spans.append(curve)
            finite = np.flatnonzero(np.isfinite(curve.y))
            if len(finite):
                x, y = float(curve.x[finite[-1]]), float(curve.y[finite[-1]])
                words = f"{names[run.series]}  {in_words(self._metric, y)}"
                ends.append(_End(x, y, words, series_pen(run.series).color()))
        if not self._zoomed:
            self._set_range(spans, ends)
        self._choose_pens()
        self._label(ends)
        self._describe(ends)

    def _add(self, curve: _Curve, pen: QPen, marker: str | None = None) -> None:
        item = pg.PlotDataItem(curve.x, curve.y, pen=pen, connect="finite")
        if marker:
            item.setSymbol(marker)
            item.setSymbolSize(8)
            item.setSymbolPen(pg.mkPen(pen.color(), width=1.6))
            item.setSymbolBrush(pg.mkBrush(theme().colors.surface))
        self.addItem(item)
        self._drawn.append(item)
        self._lines_drawn.append(_Line(item, curve, pen))

    def _choose_pens(self) -> None:
        """A rough curve is drawn thin: six wide ones of a million steps held the window for 16 seconds."""
        (left, right), (bottom, top) = self.box.viewRange()
        across, up = self.box.width() / (right - left), self.box.height() / (top - bottom)
        for line in self._lines_drawn:
            width = float(np.ptp(line.curve.x)) * across if len(line.curve.x) else 0.0
            pen = thin(line.pen) if is_rough(line.curve.y * up, width) else line.pen
            if pen.widthF() != line.item.opts["pen"].widthF():
                line.item.setPen(pen)

    def _set_range(self, curves: Sequence[_Curve], ends: Sequence[_End]) -> None:
        xs = np.concatenate([curve.x for curve in curves]) if curves else np.empty(0)
        ys = np.concatenate([curve.y for curve in curves]) if curves else np.empty(0)
        finite = ys[np.isfinite(ys)]
        box = self.box
        if not len(finite):
            box.setRange(xRange=(0, 1), yRange=(0, 1), padding=0)
            return
        low, high = float(finite.min()), float(np.quantile(finite, 0.995))
        room = (high - low) * 0.08 or abs(high) * 0.1 or 0.5
        right = float(xs.max()) or 1.0
        metrics = QFontMetrics(theme().font("note", 600))
        longest = max((metrics.horizontalAdvance(end.words) for end in ends), default=0) + theme().px(
            14 + _BESIDE_MARKER
        )
        share = min(longest / max(box.width(), 1.0), 0.6)
        last = right / (1 - share)
        before = last * theme().px(_HALF_MARKER) / max(box.width(), 1.0)  # one at the start is whole
        box.setRange(xRange=(-before, last), yRange=(low - room, high + room), padding=0)

    def _label(self, ends: Sequence[_End]) -> None:
        """Beside the ends, pushed apart where they would lie on each other."""
        (_, _), (bottom, top) = self.box.viewRange()
        least = (top - bottom) * _LABEL_HEIGHT
        beside = self.box.viewPixelSize()[0] * theme().px(_BESIDE_MARKER)
        before = -math.inf
        for end in sorted(ends, key=lambda end: end.y):
            at = before = max(end.y, before + least)
            label = pg.TextItem(end.words, anchor=(0, 0.5))
            label.setColor(end.color)
            label.setFont(theme().font("note", 600))
            label.setPos(end.x + beside, at)
            self.addItem(label)
            self._drawn.append(label)

    def _describe(self, ends: Sequence[_End]) -> None:
        self.setAccessibleDescription("; ".join(end.words for end in ends) or "No run is chosen.")

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self.isVisible():  # also called while it is being made
            self._draw()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._draw()


class TimeAxis(ChartAxis):
    """Seconds, minutes or hours of training, each at round ones: 30 s, 15 min, 2 h."""

    def round_step(self, least: float) -> float:
        if least <= 1:
            return super().round_step(least)
        hours = round_step(max(least / 3600, 1.0), (1, 2, 5, 10))
        return next((step for step in _WITHIN_AN_HOUR if step >= least), hours * 3600)

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        unit, word = next((unit, word) for unit, word in _TIMES if spacing >= unit or unit == 1)
        return [f"{value / unit:,.{places_of(spacing / unit)}f} {word}" for value in values]


class MillionsAxis(ChartAxis):
    """Tokens: 500k, 2 M."""

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        unit, word = (1e6, " M") if max(values, default=0) >= 1e6 else (1e3, "k")
        return [f"{value / unit:.{places_of(spacing / unit)}f}{word}" for value in values]


def _cut(name: str) -> str:
    """Its beginning and end, where it is long."""
    shown, half = visible_line(name, 200), _LONGEST_LABEL // 2
    return shown if len(shown) <= _LONGEST_LABEL else f"{shown[:half]}…{shown[-half:]}"


def in_words(metric: str, value: float) -> str:
    """As the end of a line says it."""
    match metric:
        case "learning_rate":
            return in_powers(value)
        case "memory":
            return f"{value:.1f} GiB"
        case _:
            return f"{value:.3f}"


def _curve(points: Points, metric: str, across: str) -> _Curve:
    x = _across(points, across)
    if metric == "evaluation":
        steps = points.evaluation_steps
        places = points.steps.searchsorted(steps).clip(0, len(x) - 1)
        at_start = steps < points.steps[0]
        return _Curve(np.where(at_start, 0.0, x[places]), points.evaluation_losses)
    peaks = points.peaks[{"loss": "smoothed", "memory": "memory_total"}.get(metric, metric)]
    places = peaks.between(0, len(points), _COLUMNS)
    scale = 2**30 if metric == "memory" else 1
    return _Curve(x[places], peaks.values[places] / scale)


def _across(points: Points, across: str) -> NDArray[np.float64]:
    match across:
        case "tokens":
            return np.cumsum(points.tokens)
        case "time":
            return points.elapsed_s.astype("float64")
        case _:
            return points.steps.astype("float64")
