"""A run's measurements as arrays that grow: read from its folder, or appended as the engine tells them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qlora_studio.protocol.events import (
    CheckpointSaved,
    EngineEvent,
    EvaluationFinished,
    RewardsMeasured,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFinished,
)
from qlora_studio.protocol.lines import EVENTS
from qlora_studio.runs.metric_lines import EvaluationLine, FailedLine, FinishedLine, RewardLine
from qlora_studio.runs.metrics import Metrics, MetricsTail, NonFinite
from qlora_studio.state.peaks import Peaks
from qlora_studio.state.smoothing import Smoothing

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMOOTHING = 0.97
PARTS = ("weights", "adapter", "optimizer", "activations", "logits", "other")  # from below

DRAWN = (
    "loss",
    "smoothed",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "memory_total",
    "memory_needed",
)

Measured = (
    RunStarted
    | StepFinished
    | RewardsMeasured
    | EvaluationFinished
    | CheckpointSaved
    | RunFinished
    | RunFailed
)


@dataclass(frozen=True, eq=False)
class Rewards:
    """How far better answers are preferred, where a run learns that; arrays of equal length.

    margins:    nats; NaN where there was only one kind of answer
    accuracies: shares of pairs; NaN where there are no pairs
    """

    steps: NDArray[Any]
    margins: NDArray[Any]
    accuracies: NDArray[Any]

    @classmethod
    def of(cls, lines: Sequence[RewardLine]) -> Rewards:
        """In their order."""
        return cls(
            np.array([line.step for line in lines], "int64"),
            np.array([line.margin for line in lines], "float64"),
            np.array([line.accuracy for line in lines], "float64"),
        )

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, eq=False)  # arrays have no equality that is one word
class Points:
    """What is drawn: arrays of equal length that stay as they are while the run goes on.

    rewinds: how often something that was there already became another; else points were only added
    """

    steps: NDArray[Any]
    loss: NDArray[Any]
    smoothed: NDArray[Any]
    learning_rate: NDArray[Any]
    grad_norm: NDArray[Any]
    tokens: NDArray[Any]  # of each step, without padding
    tokens_per_second: NDArray[Any]
    learned_tokens_per_second: NDArray[Any]
    elapsed_s: NDArray[Any]
    memory: dict[str, NDArray[Any]]  # bytes; the parts that were measured, in the order of PARTS
    memory_total: NDArray[Any]
    memory_needed: NDArray[Any]  # of it, without what torch reserves beyond: it seldom gives that back
    others: NDArray[Any]  # bytes that other programs took of the device
    in_ram: NDArray[Any]  # bytes of the optimizer that had no room on the card
    device_bytes: int  # 0: not told
    peaks: dict[str, Peaks]  # of the arrays that are drawn, by their names
    spikes: tuple[int, ...]  # places of steps that took much more memory than those around them
    evaluations: tuple[EvaluationLine, ...]
    evaluation_steps: NDArray[Any]
    evaluation_losses: NDArray[Any]  # NaN where it wasn't finite
    rewards: Rewards  # of training
    held_out_rewards: Rewards
    checkpoints: NDArray[Any]  # steps
    non_finite: tuple[NonFinite, ...]
    total_steps: int
    ended: FinishedLine | FailedLine | None
    skipped_lines: int
    rewinds: int

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def counted(self) -> list[EvaluationLine]:
        """Evaluations that counted right answers, in their order."""
        return [line for line in self.evaluations if line.questions and line.right is not None]

    @property
    def last_step(self) -> int:
        """0 before the first."""
        return int(self.steps[-1]) if len(self.steps) else 0

    @property
    def last_shown(self) -> int:
        """Where the axis ends: the run's last step, known before it is reached."""
        return max(self.total_steps, self.last_step, 1)

    def places_before(self, step: float) -> int:
        """How many steps lie before it. (Searching whole numbers for a broken one would copy them all.)"""
        return int(self.steps.searchsorted(math.ceil(step)))

    def at(self, step: float) -> int:
        """The place of the nearest step; -1 where there are none."""
        if not len(self.steps):
            return -1
        after = min(self.places_before(step), len(self.steps) - 1)
        before = max(after - 1, 0)
        return before if step - self.steps[before] < self.steps[after] - step else after


class Curves:
    """One run's. Not to be used by two threads at once; the `Points` it gives may be."""

    def __init__(self, tail: MetricsTail, weight: float = SMOOTHING, planned_steps: int = 0) -> None:
        """planned_steps: of the run, until it tells itself how many it will make."""
        self._tail = tail
        self._planned_steps = planned_steps
        self._weight = weight
        self._rewinds = 0
        self._peaks: dict[str, Peaks] = {}
        self._start_again()

    def read(self, to_the_end: bool) -> bool:
        """What the file has more than before; whether there was anything. Raises: StudioError.

        to_the_end: nobody writes to it any more, so that what stands after the last line end counts too
        """
        grew = self._tail.read()
        if to_the_end:
            self._tail.read_torn_end()
        if grew:
            self._rewind()  # a resume may have been among the new lines
        return grew

    def take(self, events: Iterable[EngineEvent]) -> None:
        """Events as they were told. Those that the file had already change nothing."""
        measured = [event for event in events if isinstance(event, Measured)]
        lowest = min((_first_step_of(event) for event in measured), default=self._known + 1)
        self._tail.take(b"".join(map(EVENTS.encode, measured)))
        if lowest <= self._known:
            self._rewind()

    def smooth(self, weight: float) -> None:
        """With another weight from now on."""
        if weight != self._weight:
            self._weight = weight
            self._rewind()

    @property
    def metrics(self) -> Metrics:
        """Another one where the file was replaced."""
        return self._tail.metrics

    def points(self) -> Points:
        """As they are now."""
        metrics = self.metrics
        self._go_on(metrics)
        size = len(metrics)
        drawn = {
            "loss": metrics.loss,
            "smoothed": self._smoothed[:size],
            "learning_rate": metrics.learning_rate,
            "grad_norm": metrics.grad_norm,
            "tokens_per_second": metrics.tokens_per_second,
            "memory_total": self._total[:size],
            "memory_needed": self._needed[:size],
        }
        self._peaks = {name: self._peaks[name].grown(values) for name, values in drawn.items()}
        evaluations = tuple(metrics.evaluations)
        return Points(
            steps=metrics.steps,
            tokens=metrics.tokens,
            learned_tokens_per_second=metrics.learned_tokens_per_second,
            elapsed_s=metrics.elapsed_s,
            memory=_by_part(metrics.memory, size),
            **drawn,
            others=metrics.others_bytes,
            in_ram=metrics.in_ram_bytes,
            device_bytes=metrics.device_bytes,
            peaks=self._peaks,
            spikes=_spikes(self._needed[:size]),
            evaluations=evaluations,
            evaluation_steps=np.array([line.step for line in evaluations], "int64"),
            evaluation_losses=np.array([line.loss for line in evaluations], "float64"),
            rewards=Rewards.of(metrics.rewards),
            held_out_rewards=Rewards.of(metrics.held_out_rewards),
            checkpoints=np.array([line.step for line in metrics.checkpoints], "int64"),
            non_finite=tuple(metrics.non_finite),
            total_steps=metrics.total_steps or self._planned_steps,
            ended=metrics.ended,
            skipped_lines=metrics.skipped_lines,
            rewinds=self._rewinds,
        )

    def _rewind(self) -> None:
        self._rewinds += 1
        self._start_again()

    def _start_again(self) -> None:
        self._smoothing = Smoothing(self._weight)
        self._smoothed = np.empty(1024)
        self._total, self._needed = np.empty(1024, "int64"), np.empty(1024, "int64")
        self._peaks = dict.fromkeys(DRAWN, Peaks(np.empty(0)))
        self._size = 0
        self._known = 0  # the last step that was drawn

    def _go_on(self, metrics: Metrics) -> None:
        """Smooths and sums what is new."""
        size = len(metrics)
        if size > len(self._smoothed):
            self._smoothed = _grown(self._smoothed, self._size, size)
            self._total = _grown(self._total, self._size, size)
            self._needed = _grown(self._needed, self._size, size)
        new = slice(self._size, size)
        if size > self._size:
            self._smoothed[new] = self._smoothing.next(metrics.loss[new])
            self._total[new] = sum(part[new] for part in metrics.memory.values())
            # A processor's meter knows no activations: they are in "other" there.
            is_reserved = "activations" in metrics.memory and "other" in metrics.memory
            reserved = metrics.memory["other"][new] if is_reserved else 0
            self._needed[new] = self._total[new] - reserved
            self._size = size
            self._known = int(metrics.steps[-1])


def no_points() -> Points:
    """Of a run that hasn't begun."""
    return Curves(MetricsTail(Path())).points()


def _spikes(total: NDArray[Any], most: int = 6) -> tuple[int, ...]:
    """Places of steps that took more than 1.25 times the median of the 64 steps they lie among (counted from
    the first; the last ones lie among the last 64). None before there are 32; of many, the highest.
    """
    block = 64
    if len(total) < block // 2:
        return ()
    whole = len(total) // block * block
    medians = np.median(total[:whole].reshape(-1, block), axis=1) if whole else np.empty(0)
    rest = np.median(total[-block:])
    high = np.flatnonzero(total[:whole] > 1.25 * np.repeat(medians, block))
    high = np.append(high, whole + np.flatnonzero(total[whole:] > 1.25 * rest))
    if len(high) > most:
        high = np.sort(high[np.argsort(total[high])[-most:]])
    return tuple(int(place) for place in high)


def _first_step_of(event: Measured) -> int:
    """The lowest step whose points it may change."""
    match event:
        case RunStarted():
            return event.step + 1
        case StepFinished():
            return event.step
        case _:
            return 2**62


def _by_part(memory: dict[str, NDArray[Any]], size: int) -> dict[str, NDArray[Any]]:
    """Parts this version doesn't know count as other."""
    known = {part: memory[part][:size] for part in PARTS if part in memory}
    unknown: Sequence[NDArray[Any]] = [values[:size] for part, values in memory.items() if part not in PARTS]
    if unknown:
        known["other"] = known.get("other", np.zeros(size, "int64")) + sum(unknown)
    return known


def _grown(cells: NDArray[Any], used: int, needed: int) -> NDArray[Any]:
    larger = np.empty(max(needed, 4 * len(cells)), cells.dtype)
    larger[:used] = cells[:used]
    return larger
