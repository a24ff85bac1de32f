"""The figures a person watches while a run trains, from its points so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from qlora_studio.memory.correction import as_promised

if TYPE_CHECKING:
    from qlora_studio.runs.run_record import RunRecord
    from qlora_studio.state.curves import Points

_LOOK_BACK = 400  # steps over which the loss is said to go down or up
_RECENT = 20  # steps whose median is the speed now
_PACE = 100  # steps whose pace, with all that happens between them, tells the time left


@dataclass(frozen=True)
class RunFigures:
    """None: not known yet.

    loss_change:   of the smoothed loss over the last `change_steps`
    best:          loss and step of the best evaluation
    right_share:   of letters or numbers, by the last evaluation that counted them
    learned_share: of the tokens, those the loss counts
    peak_bytes:     at the peak so far, counted as the promise counts
    promised_bytes: that were promised before the start
    """

    step: int = 0
    total_steps: int = 0
    epoch: float | None = None
    epochs: float | None = None
    loss: float | None = None
    loss_change: float | None = None
    change_steps: int = 0
    evaluation: tuple[float, int] | None = None
    best: tuple[float, int] | None = None
    right_share: float | None = None
    elapsed_s: float | None = None
    seconds_left: float | None = None
    tokens_per_second: float | None = None
    learned_share: float | None = None
    peak_bytes: int | None = None
    steps_measured: int = 0
    promised_bytes: int | None = None


def run_figures(points: Points, record: RunRecord | None) -> RunFigures:
    """As of the last step."""
    total = total_steps(points, record)
    promised = sum(record.promise_bytes.values()) if record else 0
    finite = np.flatnonzero(np.isfinite(points.evaluation_losses))
    losses, steps = points.evaluation_losses[finite].tolist(), points.evaluation_steps[finite].tolist()
    best = losses.index(min(losses)) if losses else 0
    training = record.config.training if record else None
    epochs = training.epochs if training and not training.steps else None
    size, device = len(points), record.device if record else "cpu"
    if not size:
        return RunFigures(total_steps=total, promised_bytes=promised or None)
    change, over = _loss_change(points)
    return RunFigures(
        step=points.last_step,
        total_steps=total,
        epoch=points.last_step / total * epochs if epochs and total else None,
        epochs=epochs,
        loss=last_smoothed(points),
        loss_change=change,
        change_steps=over,
        evaluation=(losses[-1], steps[-1]) if losses else None,
        best=(losses[best], steps[best]) if losses else None,
        right_share=_right_share(points),
        elapsed_s=float(points.elapsed_s[-1]),
        seconds_left=seconds_left(points, total),
        tokens_per_second=_median(points.tokens_per_second[-_RECENT:].tolist()),
        learned_share=_learned_share(points),
        peak_bytes=as_promised(int(points.memory_total.max()), device) or None,
        promised_bytes=promised or None,
        steps_measured=size,
    )


def total_steps(points: Points, record: RunRecord | None) -> int:
    """0: not known yet."""
    return points.total_steps or (record.prepared.steps if record else 0)


def figures_of_sketch(points: Points) -> RunFigures:
    """What is true of a part of the steps too, as the last one is among them."""
    if not len(points):
        return RunFigures()
    return RunFigures(
        step=points.last_step, total_steps=points.total_steps, elapsed_s=float(points.elapsed_s[-1])
    )


def last_smoothed(points: Points) -> float | None:
    """The smoothed loss as of the last step that had one."""
    values = points.smoothed[-_RECENT:].tolist()
    return next((value for value in reversed(values) if math.isfinite(value)), None)


def seconds_left(points: Points, total_steps: int) -> float | None:
    """As the last steps went, with all that happened between them. None: too few are known."""
    back = min(_PACE, len(points) - 1)
    left = total_steps - points.last_step
    if back < 2 or left < 0:
        return None
    a_step = (points.elapsed_s[-1] - points.elapsed_s[-1 - back]) / back
    return float(a_step * left) if math.isfinite(a_step) else None


def _right_share(points: Points) -> float | None:
    line = next(reversed(points.counted), None)
    return line.right / line.questions if line is not None and line.right is not None else None


def _loss_change(points: Points) -> tuple[float | None, int]:
    back = min(_LOOK_BACK, len(points) // 2)
    if back < 5:
        return None, 0
    now, before = float(points.smoothed[-1]), float(points.smoothed[-1 - back])
    return (now - before, back) if math.isfinite(now - before) else (None, 0)


def _learned_share(points: Points) -> float | None:
    speed = _median(points.tokens_per_second[-_RECENT:].tolist())
    learned = _median(points.learned_tokens_per_second[-_RECENT:].tolist())
    return learned / speed if speed and learned else None


def _median(values: list[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return median(finite) if finite else None
