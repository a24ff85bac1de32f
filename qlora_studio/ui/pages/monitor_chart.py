"""A chart over the steps of a run: it draws what is in sight, and moves together with the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QSize, Qt, Signal
from PySide6.QtGui import QPen, QResizeEvent

from qlora_studio.state.curves import Points
from qlora_studio.ui.pages.monitor_stretch import Stretch
from qlora_studio.ui.theme import fade, theme
from qlora_studio.ui.widgets.axis import ChartAxis, ThousandsAxis, places_of, round_step
from qlora_studio.ui.widgets.chart import ChartView, series_pen
from qlora_studio.ui.widgets.strokes import Stroke, Strokes

EVALUATION = 1  # series: dashed, with markers
_ZOOM = 0.85  # of what is shown, a notch of the wheel
_ROOM = 0.07  # above and below what is drawn, of its height


@dataclass(frozen=True)
class StepLine:
    """One curve of a chart: `name` is that of an array of `Points`."""

    stroke: Stroke
    name: str
    color: str | int
    width: float


class StepChart(ChartView):
    """Add lines with `add_step_line`; override `draw_more` for what else it shows.

    The left button drags out the steps to zoom to, with Shift (or the middle button) it moves them along.

    clicked_at: the step under the pointer, where the left button dragged nothing
    """

    clicked_at = Signal(float)

    def __init__(self, stretch: Stretch, *, name: str, label: str, left_axis: ChartAxis) -> None:
        self._stretch = stretch
        self._step_lines: list[StepLine] = []
        self._range = (0.0, 1.0)
        self._log = False
        self._crosshair = pg.InfiniteLine(angle=90, movable=False)
        self._sought = pg.LinearRegionItem(movable=False)
        self._drag_from: QPointF | None = None
        self._pans = False
        super().__init__(left_axis, StepsAxis(), name=name, label=label)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.box.setMouseEnabled(False, False)
        self.box.disableAutoRange()
        self._strokes = Strokes(self.box)
        self._sought.setZValue(30)
        self._crosshair.setZValue(20)
        for guest in (self._sought, self._crosshair):
            guest.hide()
            self.addItem(guest)
        self.recolor()
        stretch.changed.connect(self.redraw)
        stretch.rested.connect(self.redraw)
        stretch.pointed.connect(self._show_crosshair)

    def add_step_line(self, name: str, color: str | int, width: float) -> None:
        """name: of an array of `Points`; color: a token of the theme, or a series."""
        stroke = Stroke(self.pen(color, width))
        self._strokes.strokes.append(stroke)
        self._step_lines.append(StepLine(stroke, name, color, width))

    def redraw(self) -> None:
        """What is in sight, in as many points as there are columns of pixels."""
        if not self.isVisible():
            return
        points, columns = self._stretch.points, self.columns()
        first, last = self.in_sight()
        self._strokes.fine = not self._stretch.moving
        low, high = math.inf, -math.inf
        for line in self._step_lines:
            peaks = points.peaks[line.name]
            places = peaks.between(first, last, columns)
            values = self.scaled(peaks.values[places])
            line.stroke.x, line.stroke.y = points.steps[places], values
            if (finite := values[np.isfinite(values)]).size:
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        low, high = self.draw_more(points, low, high)
        self._show_range(low, high)

    def draw_more(self, points: Points, low: float, high: float) -> tuple[float, float]:
        """What isn't a line of steps; gives the lowest and highest value that must be in sight."""
        return low, high

    def in_sight(self) -> tuple[int, int]:
        """Places of the steps that are shown: first .. last - 1, with one more at both sides."""
        points = self._stretch.points
        first = points.places_before(self._stretch.first)
        last = points.places_before(self._stretch.last)
        return max(first - 1, 0), min(last + 2, len(points))

    def columns(self) -> int:
        """Of pixels, for the curves."""
        return max(int(self.box.width()), 50)

    def scaled(self, values: NDArray[Any]) -> NDArray[Any]:
        """As they are drawn: their logarithms where the axis is logarithmic."""
        if not self._log:
            return values
        positive = np.where(values > 0, values, np.nan)
        logarithms: NDArray[Any] = np.log10(positive)
        return logarithms

    def _show_range(self, low: float, high: float) -> None:
        if not math.isfinite(low) or not math.isfinite(high):
            low, high = (0.0, 1.0)
        if low == high == 0.0:
            high = 1.0
        room = (high - low) * _ROOM or abs(high) * 0.1 or 0.5
        self.set_range(low - room, high + room)

    def set_range(self, low: float, high: float) -> None:
        """Of the left axis; the bottom one shows the stretch."""
        self._range = (low, high)
        across = (self._stretch.first, self._stretch.last)
        self.box.setRange(xRange=across, yRange=self._range, padding=0)
        self.box.updateMatrix()  # while it paints it would, and then paint once more
        self._strokes.fit(across, self._range)

    # Crosshair and mouse ----------------------------------------------------------------------------

    def _show_crosshair(self) -> None:
        place = self._stretch.place
        self._crosshair.setVisible(place >= 0)
        if place >= 0:
            self._crosshair.setValue(float(self._stretch.points.steps[place]))

    def step_at(self, position: QPointF) -> float:
        """position: in this widget."""
        scene = self.mapToScene(position.toPoint())
        return float(self.box.mapSceneToView(scene).x())

    def x_of(self, step: float) -> int:
        """Where a step stands, in this widget's pixels."""
        return int(self.mapFromScene(self.box.mapViewToScene(QPointF(step, self._range[0]))).x())

    def mousePressEvent(self, event: Any) -> None:
        pans = event.button() == Qt.MouseButton.MiddleButton or (
            event.modifiers() & Qt.KeyboardModifier.ShiftModifier
        )
        if event.button() in (Qt.MouseButton.LeftButton, Qt.MouseButton.MiddleButton):
            self._drag_from, self._pans = event.position(), bool(pans)
        super().mousePressEvent(event)

    def mouseMoveEvent(self, event: Any) -> None:
        super().mouseMoveEvent(event)
        if self._drag_from is None:
            self._stretch.point_near(self.step_at(event.position()))
        elif self._pans:
            self._stretch.shift(self.step_at(self._drag_from) - self.step_at(event.position()))
            self._drag_from = event.position()
        else:
            self._sought.setRegion((self.step_at(self._drag_from), self.step_at(event.position())))
            self._sought.setVisible(self._is_dragged(event.position()))

    def mouseReleaseEvent(self, event: Any) -> None:
        super().mouseReleaseEvent(event)
        start, self._drag_from = self._drag_from, None
        self._sought.hide()
        if start is None or self._pans:
            return
        if self._is_dragged(event.position(), start):
            self._stretch.show(*sorted((self.step_at(start), self.step_at(event.position()))))
        else:
            self.clicked_at.emit(self.step_at(event.position()))

    def mouseDoubleClickEvent(self, event: Any) -> None:
        self._drag_from = None
        self._stretch.show_all()

    def leaveEvent(self, event: Any) -> None:
        super().leaveEvent(event)
        self._stretch.point_at(-1)

    def wheelEvent(self, event: Any) -> None:
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            notches = event.angleDelta().y() / 120
            self._stretch.zoom(_ZOOM**notches, self.step_at(event.position()))
            event.accept()
        else:
            event.ignore()  # the page scrolls

    def _is_dragged(self, position: QPointF, start: QPointF | None = None) -> bool:
        origin = start or self._drag_from
        return origin is not None and abs(position.x() - origin.x()) > 4

    # Looks ------------------------------------------------------------------------------------------

    def sizeHint(self) -> QSize:
        return QSize(theme().px(160), self.minimumHeight())

    def pen(self, color: str | int, width: float) -> QPen:
        """Curves of one chart differ enough: none but evaluations is dashed."""
        if color == EVALUATION:
            return series_pen(EVALUATION, width)
        series = theme().colors.series
        pen: QPen = pg.mkPen(series[color] if isinstance(color, int) else theme().color(color), width=width)
        return pen

    def recolor(self) -> None:
        super().recolor()
        for drawn in self._step_lines:
            drawn.stroke.pen = self.pen(drawn.color, drawn.width)
        text = theme().color("muted")
        self._crosshair.setPen(pg.mkPen(text, width=1, style=Qt.PenStyle.DotLine))
        self._sought.setBrush(pg.mkBrush(fade(theme().color("accent"), 0.18)))
        for line in self._sought.lines:
            line.setPen(pg.mkPen(theme().color("accent"), width=1))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.redraw()

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        self.redraw()


class StepsAxis(ThousandsAxis):
    """There is nothing between two steps."""

    least_step = 1.0
    bases = (1, 2, 5, 10)

    def __init__(self) -> None:
        super().__init__("bottom")


class PowerAxis(ChartAxis):
    """Ticks such as 2e-4."""

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        return [in_powers(value * scale) for value in values]


class ShortAxis(ChartAxis):
    """Ticks such as 5k and 0.25."""

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        if max(map(abs, values), default=0) * scale >= 1000:
            return [f"{value * scale / 1000:g}k" for value in values]
        return [f"{value * scale:g}" for value in values]


class LossAxis(ChartAxis):
    """Plain ticks; on a logarithmic scale they stand at round losses, not at round powers."""

    def __init__(self) -> None:
        super().__init__("left")
        self.log = False

    def tickValues(self, low: float, high: float, size: float) -> list[tuple[float, list[float]]]:
        if not self.log:
            return super().tickValues(low, high, size)
        least, most = 10**low, 10**high
        if most / least > 30:
            powers = range(math.floor(low), math.ceil(high) + 1)
            round_ones = [base * 10.0**power for power in powers for base in (1, 2, 5)]
        else:
            step = round_step((most - least) / max(size / 40, 2))
            round_ones = [step * number for number in range(1, int(most / step) + 1)]
        return [(1.0, [math.log10(value) for value in round_ones if least <= value <= most])]

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        if self.log:
            return [f"{10**value:.4g}" for value in values]
        return [f"{value:.{max(1, places_of(spacing))}f}" for value in values]


def in_powers(value: float) -> str:
    """2e-4, 2.5e-4; as plain numbers from 0.01 on."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    if abs(value) >= 0.01:
        return f"{value:g}"
    power = math.floor(math.log10(abs(value)) + 1e-9)
    return f"{value / 10**power:.3g}e{power}"
