"""What a run has measured, read from `metrics.jsonl`: one value per step, broken lines skipped and counted.

A run that resumed from step k measures k + 1 and later steps again. The older lines stay in the file and are
superseded: a step counts if every step after it in the file is larger (R5).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import LONGEST_LINE, open_to_read
from qlora_studio.runs.metric_lines import (
    MOST_MEMORY_PARTS,
    CheckpointLine,
    EvaluationLine,
    FailedLine,
    FinishedLine,
    Line,
    LineDecoder,
    RewardLine,
    StepLine,
    memory_of,
    sittings,
    split,
)
from qlora_studio.runs.metric_parts import PARALLEL_FROM, Part, PartFacts, parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

METRICS_FILE = "metrics.jsonl"

_LARGEST_FILE = 8 << 30  # bytes: some 20 million steps
_BLOCK = 1 << 20  # bytes decoded in one go, 3 ms of holding the interpreter; more than the longest line
_SPARE = 1.1  # times the room that as many steps in the other parts would need
_PACKED = {"i": "q", "f": "d"}  # how `struct` calls what a column holds
_NUMBERS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens",
    "learned_tokens",
    "tokens_per_second",
    "learned_tokens_per_second",
    "elapsed_s",
    "others_bytes",
    "in_ram_bytes",
)

Fill = Callable[["NDArray[Any]"], bool]


@dataclass(frozen=True)
class NonFinite:
    """A step whose loss was no number."""

    step: int
    kind: str  # "nan" | "inf"


def read_metrics(path: Path) -> Metrics:
    """All of a file that nobody is writing to. Raises: StudioError."""
    tail = MetricsTail(path)
    tail.read()
    tail.read_torn_end()
    return tail.metrics


class MetricsTail:
    """Follows a metrics file that grows: each `read` decodes only what is new.

    start: of a part of it, where a line begins
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self.metrics = Metrics()
        self._decoder = LineDecoder()
        self._offset = start
        self._in_long_line = False

    def read(self) -> bool:
        """Takes in the whole lines written since; whether there were any. A missing file has none yet.

        Raises: StudioError.
        """
        try:
            descriptor = open_to_read(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StudioError(f"{self.path} can't be read: {error.strerror}.") from error
        try:
            return self._read_from(descriptor)
        except OSError as error:
            raise StudioError(f"{self.path} can't be read: {error.strerror}.") from error
        finally:
            os.close(descriptor)

    def read_torn_end(self) -> None:
        """Takes in what stands after the last line end. Only once nobody writes any more."""
        try:
            descriptor = open_to_read(self.path)
        except OSError:
            return
        with os.fdopen(descriptor, "rb") as file:
            file.seek(self._offset)
            rest = file.read(_BLOCK)
        self._offset += len(rest)
        if not self._in_long_line:
            self.take(rest)

    def take(self, block: bytes) -> None:
        """Whole lines, as they are read, or as the engine tells them before; said twice they count once."""
        lines, broken = self._decoder.decode(block)
        self.metrics.skipped_lines += broken
        self.metrics.add(lines, self._decoder.memory_parts)

    def _read_from(self, descriptor: int) -> bool:
        size = os.fstat(descriptor).st_size
        if size > _LARGEST_FILE:
            raise StudioError(f"{self.path} is too large to be shown: {size / 1e9:.0f} GB.")
        if size < self._offset:  # another file now
            self.metrics, self._decoder, self._offset, self._in_long_line = Metrics(), LineDecoder(), 0, False
        before = self._offset
        if size - before >= PARALLEL_FROM and not self._in_long_line:
            self._read_in_parts(descriptor, size)
        self.read_up_to(descriptor, size)
        return self._offset > before

    def _read_in_parts(self, descriptor: int, size: int) -> None:
        start = self._offset
        with parts_of(self.path, descriptor, start, size) as parts:
            for part in parts:
                if not self._join(part, (size - start) / (part.end - part.start)):
                    self.read_up_to(descriptor, part.end)

    def _join(self, part: Part, parts: float) -> bool:
        """What a child has read; parts: how many such there are. False: it must be read here."""
        facts = part.facts()
        if facts is None or part.start != self._offset:
            return False
        memory = tuple(dict.fromkeys((*self._decoder.memory_parts, *facts.memory_parts)))
        if len(memory) >= MOST_MEMORY_PARTS:  # which are dropped depends on the lines before
            return False
        self._decoder.know(memory)
        if not self.metrics.join(facts, part.fill, memory, int(facts.steps * parts * _SPARE)):
            return False
        self._offset, self._in_long_line = facts.reached, facts.in_long_line
        return True

    def read_up_to(self, descriptor: int, end: int) -> None:
        """The whole lines before byte `end` of an open file. Raises: OSError."""
        while block := self._block_before(descriptor, end):
            whole = block.rfind(b"\n") + 1
            if whole:
                start = block.index(b"\n") + 1 if self._in_long_line else 0
                self._in_long_line = False
                self.take(block[start:whole])
            elif len(block) > LONGEST_LINE:
                self.metrics.skipped_lines += not self._in_long_line
                self._in_long_line = True
                whole = len(block)
            else:
                break  # a line that is still being written, or was torn
            self._offset += whole

    def facts(self) -> PartFacts:
        """Of a part that was read, for whoever joins it to the others."""
        return self.metrics.facts(self._offset, self._in_long_line)

    def _block_before(self, descriptor: int, end: int) -> bytes:
        os.lseek(descriptor, self._offset, os.SEEK_SET)
        return os.read(descriptor, max(min(_BLOCK, end - self._offset), 0))


class Metrics:
    """Columns with one value per step, as views of growing numpy arrays, and what happened between the steps.

    A view stays as it is while steps are added; a resume seen by a later `read` may overwrite its end.
    """

    def __init__(self) -> None:
        self.evaluations: list[EvaluationLine] = []
        self.rewards: list[RewardLine] = []  # of training
        self.held_out_rewards: list[RewardLine] = []
        self.checkpoints: list[CheckpointLine] = []
        self.non_finite: list[NonFinite] = []
        self.skipped_lines = 0
        self.total_steps = 0
        self.device_bytes = 0  # of the newest sitting's device; 0: not told
        self.ended: FinishedLine | FailedLine | None = None  # None also where it was interrupted
        self._steps = _Column("int64")
        self._numbers = {name: _Column("float64") for name in _NUMBERS}
        self._memory: dict[str, _Column] = {}
        self._lowest_start = math.inf  # of the sittings that were added

    def __len__(self) -> int:
        return self._steps.size

    @property
    def steps(self) -> NDArray[Any]:
        """int64, increasing."""
        return self._steps.values

    @property
    def loss(self) -> NDArray[Any]:
        """Nats per learned token; NaN where it wasn't finite."""
        return self._numbers["loss"].values

    @property
    def learning_rate(self) -> NDArray[Any]:
        """As it was used for the update."""
        return self._numbers["learning_rate"].values

    @property
    def grad_norm(self) -> NDArray[Any]:
        """Before clipping; NaN where it wasn't finite."""
        return self._numbers["grad_norm"].values

    @property
    def tokens(self) -> NDArray[Any]:
        """Of the update, without padding."""
        return self._numbers["tokens"].values

    @property
    def learned_tokens(self) -> NDArray[Any]:
        """Of the update."""
        return self._numbers["learned_tokens"].values

    @property
    def tokens_per_second(self) -> NDArray[Any]:
        """Without padding."""
        return self._numbers["tokens_per_second"].values

    @property
    def learned_tokens_per_second(self) -> NDArray[Any]:
        """Those the loss counts."""
        return self._numbers["learned_tokens_per_second"].values

    @property
    def elapsed_s(self) -> NDArray[Any]:
        """Of training, over all sittings."""
        return self._numbers["elapsed_s"].values

    @property
    def others_bytes(self) -> NDArray[Any]:
        """Most that other programs took of the device in each step; 0 where nobody told."""
        return self._numbers["others_bytes"].values

    @property
    def in_ram_bytes(self) -> NDArray[Any]:
        """Of a paged optimizer's state, what had no room on the card in each step."""
        return self._numbers["in_ram_bytes"].values

    @property
    def memory(self) -> dict[str, NDArray[Any]]:
        """Peak bytes of each step by part."""
        return {part: column.values for part, column in self._memory.items()}

    @property
    def memory_total(self) -> NDArray[Any]:
        """Peak bytes of each step, all parts together."""
        import numpy as np

        total = np.zeros(len(self), "int64")
        for column in self._memory.values():
            total += column.values
        return total

    def add(self, lines: Sequence[Line], memory_parts: tuple[str, ...]) -> None:
        """In the order of the file."""
        self._add_memory(memory_parts)
        for start, rest in sittings(lines):
            if start:
                self._lowest_start = min(self._lowest_start, start.step)
                self._supersede_from(start.step + 1)
                self.total_steps = start.total_steps or self.total_steps
                self.device_bytes = start.device_bytes or self.device_bytes
                self.ended = None
            self._add_sitting(rest)

    def join(self, part: PartFacts, fill: Fill, memory_parts: tuple[str, ...], room: int) -> bool:
        """The lines that follow, read elsewhere from their first on.

        fill: puts the next column's numbers into an array; False where they don't come: then the same lines
            must be added
        memory_parts: all there are, those of before first
        room: steps for which there will be room
        """
        self._add_memory(memory_parts)
        if part.goes_back_to is not None:
            self._supersede_from(part.goes_back_to)
            self.ended = None
        read = [self._steps, *self._numbers.values(), *map(self._memory.__getitem__, part.memory_parts)]
        if not all(fill(column.room(part.steps, room)) for column in read):
            return False
        for name, column in self._memory.items():
            if name not in part.memory_parts:
                column.room(part.steps, room)[:] = 0
        for column in self._all_columns():
            column.size += part.steps
        self._join_between_steps(part)
        return True

    def _join_between_steps(self, part: PartFacts) -> None:
        joined: tuple[tuple[list[Any], list[Any]], ...] = (
            (self.evaluations, part.evaluations),
            (self.rewards, part.rewards),
            (self.held_out_rewards, part.held_out_rewards),
            (self.checkpoints, part.checkpoints),
        )
        for known, new in joined:
            if new:
                _cut(known, new[0].step)
                known += new
        self.non_finite += [NonFinite(step, kind) for step, kind in part.non_finite]
        self.skipped_lines += part.skipped_lines
        self.total_steps = part.total_steps or self.total_steps
        self.device_bytes = part.device_bytes or self.device_bytes
        self.ended = part.ended or self.ended

    def facts(self, reached: int, in_long_line: bool) -> PartFacts:
        """For `join`, where these are the metrics of a part."""
        lowest = min(self._lowest_start + 1, self.steps[0] if len(self) else math.inf)
        return PartFacts(
            steps=len(self),
            memory_parts=tuple(self._memory),
            evaluations=self.evaluations,
            rewards=self.rewards,
            held_out_rewards=self.held_out_rewards,
            checkpoints=self.checkpoints,
            non_finite=[(gap.step, gap.kind) for gap in self.non_finite],
            total_steps=self.total_steps,
            device_bytes=self.device_bytes,
            ended=self.ended,
            goes_back_to=None if lowest == math.inf else int(lowest),
            skipped_lines=self.skipped_lines,
            reached=reached,
            in_long_line=in_long_line,
        )

    def columns(self) -> list[NDArray[Any]]:
        """Steps, numbers, and the memory of each part."""
        return [column.values for column in self._all_columns()]

    def _all_columns(self) -> list[_Column]:
        return [self._steps, *self._numbers.values(), *self._memory.values()]

    def _add_memory(self, parts: tuple[str, ...]) -> None:
        for part in parts[len(self._memory) :]:
            self._memory[part] = _Column("int64", filled=len(self))

    def _add_sitting(self, lines: Sequence[Line]) -> None:
        """Lines without a start among them; steps may still go back, where the start line was torn."""
        import numpy as np

        steps, others = split(lines)
        numbers = np.array([line.step for line in steps], "int64")
        lowest = np.minimum.accumulate(numbers[::-1])[::-1]  # of the steps from here on
        if steps:
            self._supersede_from(int(lowest[0]))
            self.ended = None
        self._add_between_steps(others, lowest.tolist())
        stays = numbers[:-1] < lowest[1:]
        if not stays.all():
            steps = [*(line for line, good in zip(steps, stays.tolist(), strict=False) if good), steps[-1]]
        self._add_steps(steps)

    def _add_between_steps(self, others: list[tuple[int, Line]], lowest: list[int]) -> None:
        for steps_before, line in others:
            following = lowest[steps_before] if steps_before < len(lowest) else math.inf
            if isinstance(line, FinishedLine | FailedLine):
                self.ended = line if following == math.inf else None
            elif isinstance(line, EvaluationLine | RewardLine | CheckpointLine) and line.step < following:
                alike = self._alike(line)
                _cut(alike, line.step)
                alike.append(line)

    def _alike(self, line: EvaluationLine | RewardLine | CheckpointLine) -> list[Any]:
        match line:
            case EvaluationLine():
                return self.evaluations
            case RewardLine():
                return self.held_out_rewards if line.held_out else self.rewards
            case CheckpointLine():
                return self.checkpoints

    def _add_steps(self, steps: Sequence[StepLine]) -> None:
        import numpy as np

        numbers = self._numbers
        self._steps.extend([line.step for line in steps])  # written out: attrgetter takes twice as long
        numbers["loss"].extend([line.loss for line in steps])
        numbers["learning_rate"].extend([line.learning_rate for line in steps])
        numbers["grad_norm"].extend([line.grad_norm for line in steps])
        numbers["tokens"].extend([line.tokens for line in steps])
        numbers["learned_tokens"].extend([line.learned_tokens for line in steps])
        numbers["tokens_per_second"].extend([line.tokens_per_second for line in steps])
        numbers["learned_tokens_per_second"].extend([line.learned_tokens_per_second for line in steps])
        numbers["elapsed_s"].extend([line.elapsed_s for line in steps])
        numbers["others_bytes"].extend([line.others_bytes for line in steps])
        numbers["in_ram_bytes"].extend([line.in_ram_bytes for line in steps])
        memory = np.fromiter(memory_of(steps), "int64").reshape(len(steps), len(self._memory))
        for index, column in enumerate(self._memory.values()):
            column.extend(memory[:, index])
        if not np.isfinite(self.loss[len(self) - len(steps) :]).all():
            self.non_finite += [
                NonFinite(line.step, line.non_finite or "nan") for line in steps if line.loss is None
            ]

    def _supersede_from(self, step: int) -> None:
        size = int(self.steps.searchsorted(step))
        for column in self._all_columns():
            column.size = size
        for alike in (self.evaluations, self.rewards, self.held_out_rewards, self.checkpoints):
            _cut(alike, step)
        _cut(self.non_finite, step)


class _Column:
    """A numpy array that grows."""

    def __init__(self, dtype: str, filled: int = 0) -> None:
        import numpy as np

        self.size = filled
        self._cells = np.zeros(max(1024, filled), dtype)

    @property
    def values(self) -> NDArray[Any]:
        return self._cells[: self.size]

    def extend(self, values: list[Any] | NDArray[Any]) -> None:
        """None becomes NaN."""
        self.room(len(values))[:] = _as_array(values, self._cells.dtype)
        self.size += len(values)

    def room(self, count: int, more: int = 0) -> NDArray[Any]:
        """The next `count` cells, not its own yet; more: there will be room for so many without a copy."""
        import numpy as np

        end = self.size + count
        if end > len(self._cells):
            size = max(end, self.size + more, 4 * len(self._cells))
            grown = np.empty(size, self._cells.dtype)  # unused pages take no memory
            grown[: self.size] = self.values
            self._cells = grown
        return self._cells[self.size : end]


def _as_array(values: list[Any] | NDArray[Any], dtype: Any) -> NDArray[Any]:
    import numpy as np

    if isinstance(values, list):
        try:  # takes a third of what asarray takes
            return np.frombuffer(struct.pack(f"={len(values)}{_PACKED[dtype.kind]}", *values), dtype)
        except struct.error:  # there is a None
            pass
    return np.asarray(values, dtype)


def _cut(items: list[Any], step: int) -> None:
    """Drops the items from `step` on; they stand in the order of their steps."""
    while items and items[-1].step >= step:
        items.pop()
