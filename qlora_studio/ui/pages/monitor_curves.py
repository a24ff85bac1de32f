"""The Monitor's curves: loss with its evaluations and gaps, and the four small ones beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import Qt

from qlora_studio.state.curves import Points
from qlora_studio.state.monitor import CardPoint
from qlora_studio.ui.figures import THIN
from qlora_studio.ui.pages.monitor_chart import EVALUATION, LossAxis, PowerAxis, ShortAxis, StepChart
from qlora_studio.ui.pages.monitor_stretch import Stretch
from qlora_studio.ui.theme import fade, theme
from qlora_studio.ui.widgets.axis import ChartAxis

_MARKED = 120  # evaluations in sight, at most, that have a marker each
_LABELLED = 6  # gaps in sight, at most, whose step is written beside them


class LossChart(StepChart):
    """Each step thin, smoothed thick, evaluations dashed with markers; a gap where the loss was no number."""

    def __init__(self, stretch: Stretch) -> None:
        self._axis = LossAxis()
        self._gaps = pg.PlotCurveItem(connect="pairs")
        self._saved = pg.ScatterPlotItem(symbol="t1", size=8, pxMode=True)
        self._labels: list[pg.TextItem] = []
        super().__init__(stretch, name="monitor_loss", label="Loss", left_axis=self._axis)
        self.add_step_line("loss", "raw_line", 1.0)
        self.add_step_line("smoothed", 0, 2.6)
        self._evaluations = self.add_line(EVALUATION, 2.0, "o")
        for item in (self._gaps, self._saved):
            self.addItem(item)
        self.recolor()

    @property
    def log(self) -> bool:
        """Whether the axis is logarithmic."""
        return self._log

    def set_log(self, log: bool) -> None:
        """The axis' scale."""
        self._log = self._axis.log = log
        self._axis.update()
        self.redraw()

    def draw_more(self, points: Points, low: float, high: float) -> tuple[float, float]:
        seen = steps_in_sight(self._stretch, points.evaluation_steps, self.columns())
        steps, losses = points.evaluation_steps[seen], self.scaled(points.evaluation_losses[seen])
        self._evaluations.setData(steps, losses, symbol="o" if len(steps) <= _MARKED else None)
        if np.isfinite(losses).any():
            low, high = min(low, float(np.nanmin(losses))), max(high, float(np.nanmax(losses)))
        foot, top = (low, high) if math.isfinite(low) else (0.0, 1.0)
        self._draw_gaps(points, foot, top)
        self._draw_checkpoints(points, foot - (top - foot) * 0.05)
        return low, high

    def _draw_gaps(self, points: Points, low: float, high: float) -> None:
        first, last = self._stretch.first, self._stretch.last
        seen = [gap for gap in points.non_finite if first <= gap.step <= last]
        self._gaps.setData(np.repeat([gap.step for gap in seen], 2), np.tile([low, high], len(seen)))
        for label in self._labels:
            self.removeItem(label)
        self._labels = []
        words = {"nan": "NaN", "inf": "Infinite"}
        for place, gap in enumerate(seen[-_LABELLED:]):
            text = f"{words.get(gap.kind, 'NaN')} at step {gap.step:,}"
            label = pg.TextItem(text, anchor=(0, 0), color=theme().color("bad"))
            label.setFont(theme().font("note", 600))
            label.setPos(gap.step, high - (high - low) * 0.07 * place)
            self.addItem(label)
            self._labels.append(label)

    def _draw_checkpoints(self, points: Points, low: float) -> None:
        shown = points.checkpoints[steps_in_sight(self._stretch, points.checkpoints, _MARKED)]
        self._saved.setData(x=shown, y=np.full(len(shown), low))

    def recolor(self) -> None:
        super().recolor()
        self._gaps.setPen(pg.mkPen(theme().color("bad"), width=1, style=Qt.PenStyle.DashLine))
        self._saved.setBrush(pg.mkBrush(theme().color("muted")))
        self._saved.setPen(pg.mkPen(None))


class RewardChart(StepChart):
    """How far the better answers are preferred: each step thin, rows held out dashed with markers."""

    def __init__(self, stretch: Stretch) -> None:
        self._zero = pg.InfiniteLine(angle=0, movable=False)
        self._steps = pg.PlotCurveItem()
        super().__init__(
            stretch, name="monitor_reward_margin", label="Reward margin", left_axis=ShortAxis("left")
        )
        for guest in (self._zero, self._steps):
            self.addItem(guest)
        self._held_out = self.add_line(EVALUATION, 2.0, "o")
        self.recolor()

    def draw_more(self, points: Points, low: float, high: float) -> tuple[float, float]:
        low, high = 0.0, 0.0
        for rewards, line, most in (
            (points.rewards, self._steps, self.columns()),
            (points.held_out_rewards, self._held_out, _MARKED),
        ):
            seen = steps_in_sight(self._stretch, rewards.steps, most)
            margins = rewards.margins[seen]
            line.setData(rewards.steps[seen], margins)
            if np.isfinite(margins).any():
                low, high = min(low, float(np.nanmin(margins))), max(high, float(np.nanmax(margins)))
        return low, high

    def recolor(self) -> None:
        super().recolor()
        self._steps.setPen(self.pen(0, 1.2))
        self._zero.setPen(pg.mkPen(theme().color("muted"), width=1, style=Qt.PenStyle.DotLine))


class AnswersChart(StepChart):
    """Right answers to the rows held out, in % of those asked, with a marker for each evaluation."""

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(
            stretch, name="monitor_right_answers", label="Right answers", left_axis=PercentAxis("left")
        )
        self._shares = self.add_line(EVALUATION, 2.0, "o")

    def draw_more(self, points: Points, low: float, high: float) -> tuple[float, float]:
        counted = points.counted
        steps = np.array([line.step for line in counted], "int64")
        shares = np.array([100 * (line.right or 0) / line.questions for line in counted], "float64")
        seen = steps_in_sight(self._stretch, steps, _MARKED)
        self._shares.setData(steps[seen], shares[seen])
        return (0.0, max(1.05 * float(shares[seen].max()), 1.0)) if len(shares[seen]) else (0.0, 100.0)


class RateChart(StepChart):
    """Learning rate."""

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(stretch, name="monitor_lr", label="Learning rate", left_axis=PowerAxis("left"))
        self.add_step_line("learning_rate", 2, 1.8)

    def draw_more(self, points: Points, low: float, high: float) -> tuple[float, float]:
        return min(low, 0.0), high


class GradNormChart(StepChart):
    """Gradient norm, with the line at which it is cut."""

    def __init__(self, stretch: Stretch) -> None:
        self._clip = pg.InfiniteLine(angle=0, movable=False)
        self._clip_words = pg.TextItem("", anchor=(1, 1))
        super().__init__(
            stretch, name="monitor_grad_norm", label="Gradient norm", left_axis=ShortAxis("left")
        )
        self._clip_words.setZValue(16)
        for guest in (self._clip, self._clip_words):
            guest.hide()
            self.addItem(guest)
        self.add_step_line("grad_norm", 3, 1.2)

    def set_clip(self, norm: float) -> None:
        """Longer gradients are shortened to this; 0: never."""
        self._clip.setVisible(norm > 0)
        self._clip.setValue(norm)
        self._clip_words.setText(f"clip {norm:g}")
        self.redraw()

    def draw_more(self, points: Points, low: float, high: float) -> tuple[float, float]:
        clip = self._clip.value() if self._clip.isVisible() else 0.0
        return min(low, 0.0), max(high, clip if clip < 4 * high or not len(points) else 0.0)

    def set_range(self, low: float, high: float) -> None:
        """The words stand at the right of their line, on the side where they hide less of the curve."""
        super().set_range(low, high)
        clip = float(self._clip.value())
        self._clip_words.setVisible(self._clip.isVisible() and clip <= high)
        self._clip_words.setAnchor((1, 0) if self._has_words_below(clip, low, high) else (1, 1))
        self._clip_words.setPos(self._stretch.last, clip)

    def _has_words_below(self, clip: float, low: float, high: float) -> bool:
        words, points = self._clip_words.boundingRect(), self._stretch.points
        height = words.height() * (high - low) / max(self.box.height(), 1.0)
        width = words.width() * (self._stretch.last - self._stretch.first) / max(self.box.width(), 1.0)
        if clip + height > high or clip - height < low:
            return bool(clip + height > high)
        behind = points.grad_norm[points.places_before(self._stretch.last - width) :] - clip
        near = behind[np.abs(behind) < height]
        return int(np.sum(near > 0)) > int(np.sum(near < 0))

    def recolor(self) -> None:
        super().recolor()
        self._clip.setPen(pg.mkPen(theme().color("limit"), width=1, style=Qt.PenStyle.DashLine))
        self._clip_words.setColor(theme().color("limit"))
        self._clip_words.setFont(theme().font("note"))
        self._clip_words.fill = pg.mkBrush(
            fade(theme().color("surface"), 0.85)
        )  # curves run behind the words


class SpeedChart(StepChart):
    """Tokens a second."""

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(stretch, name="monitor_speed", label="Tokens a second", left_axis=ShortAxis("left"))
        self.add_step_line("tokens_per_second", 0, 1.4)


class CardChart(StepChart):
    """Temperature of the card, as read while the window watched."""

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(stretch, name="monitor_gpu", label="GPU temperature", left_axis=DegreeAxis("left"))
        self._heat = self.add_line(4, 1.8)
        self._readings: list[CardPoint] = []

    def set_readings(self, readings: list[CardPoint]) -> None:
        """In their order."""
        self._readings = readings
        self.redraw()

    def draw_more(self, points: Points, low: float, high: float) -> tuple[float, float]:
        told = [(item.step, item.temperature_c) for item in self._readings if item.temperature_c is not None]
        steps = np.array([step for step, _ in told], "float64")
        heat = np.array([degrees for _, degrees in told], "float64")
        self._heat.setData(steps, heat, symbol="o" if len(told) == 1 else None)
        return (float(heat.min()) - 5, float(heat.max()) + 5) if told else (low, high)


class PercentAxis(ChartAxis):
    """Ticks such as 40 %."""

    least_step = 1.0
    bases = (1, 2, 5, 10)

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        return [f"{value * scale:.0f}{THIN}%" for value in values]


class DegreeAxis(ChartAxis):
    """Ticks such as 80°."""

    least_step = 1.0
    bases = (1, 2, 5, 10)

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        return [f"{value * scale:.0f}°" for value in values]


def steps_in_sight(stretch: Stretch, steps: NDArray[Any], most: int) -> slice:
    """Of some steps those that are shown; of more than `most`, every so many."""
    first = int(steps.searchsorted(math.ceil(stretch.first)))
    last = int(steps.searchsorted(math.floor(stretch.last), side="right"))
    return slice(first, last, max(1, -(-(last - first) // most)))
