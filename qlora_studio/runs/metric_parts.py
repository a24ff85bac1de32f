"""A long metrics file, read by several processes at once: each decodes a part of its lines.

Decoding holds the interpreter; done here, a window couldn't draw meanwhile. What a child can't do, whoever
asked does in its own process: a part never fails, it is only not there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from qlora_studio.config.child_environment import APP_FOLDER, child_environment
from qlora_studio.runs.durable import open_to_read
from qlora_studio.runs.metric_lines import (
    CheckpointLine,
    EvaluationLine,
    FailedLine,
    FinishedLine,
    RewardLine,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARALLEL_FROM = 16 << 20  # bytes: half a second's work, a child is there in a fifth of it
_MOST_CHILDREN = 4
_LOOK_AHEAD = 1 << 16  # bytes read at a time to find the end of a line
_SIZE_BYTES = 8  # of the number before the facts

_NO_WINDOW: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)


class PartFacts(msgspec.Struct):
    """What a part holds beside its columns of numbers.

    steps:        values in each column: the steps, the numbers, then the parts of the memory
    goes_back_to: what was measured from this step on is superseded; None: nothing is
    reached:      where the next line begins
    """

    steps: int
    memory_parts: tuple[str, ...]
    evaluations: list[EvaluationLine]
    rewards: list[RewardLine]
    held_out_rewards: list[RewardLine]
    checkpoints: list[CheckpointLine]
    non_finite: list[tuple[int, str]]
    total_steps: int
    device_bytes: int
    ended: FinishedLine | FailedLine | None
    goes_back_to: int | None
    skipped_lines: int
    reached: int
    in_long_line: bool


class Part:
    """Bytes start .. end - 1, which a child is reading: whole lines, but for the end of the file."""

    def __init__(self, path: Path, descriptor: int, start: int, end: int) -> None:
        self.start, self.end = start, end
        self._process = _started(path, descriptor, start, end)

    def facts(self) -> PartFacts | None:
        """Waits until all is read. None: it must be read here."""
        size = int.from_bytes(self._output.read(_SIZE_BYTES), "little") if self._process else 0
        if not 0 < size <= self.end - self.start + (1 << 20):
            return None
        try:
            facts = _FACTS.decode(self._output.read(size))
        except msgspec.MsgspecError:
            return None
        return facts if 0 <= facts.steps <= self.end - self.start else None

    def fill(self, column: NDArray[Any]) -> bool:
        """With the next column's numbers, which have its type. False: they never came."""
        if not len(column):
            return True
        room = memoryview(column.data).cast("B")
        return self._output.readinto(room) == len(room)  # type: ignore[attr-defined, no-any-return]

    def close(self) -> None:
        """Ends the child where it hasn't ended."""
        if self._process is not None:
            self._output.close()
            self._process.kill()
            self._process.wait()

    @property
    def _output(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout


@contextmanager
def parts_of(path: Path, descriptor: int, start: int, end: int) -> Iterator[list[Part]]:
    """The bytes start .. end - 1 in as many parts as there are cores, in their order.

    descriptor: of the file, `start` the beginning of a line. Raises: OSError where it can't be read.
    """
    cuts = _cuts(descriptor, start, end, min(_cores(), _MOST_CHILDREN))
    parts: list[Part] = []
    try:
        parts += (Part(path, descriptor, first, last) for first, last in pairwise(cuts))
        yield parts
    finally:
        for part in parts:
            part.close()


def write_part(output: IO[bytes], facts: PartFacts, columns: list[NDArray[Any]]) -> None:
    """As `Part` reads it."""
    head = msgspec.msgpack.encode(facts)
    output.write(len(head).to_bytes(_SIZE_BYTES, "little"))
    output.write(head)
    for column in columns:
        output.write(column.data)
    output.flush()


def _started(path: Path, descriptor: int, start: int, end: int) -> subprocess.Popen[bytes] | None:
    """None where no process can be had, or the path leads to another file by now."""
    try:
        file = open_to_read(path)  # a place in the file of its own
    except OSError:
        return None
    try:
        if not os.path.sameopenfile(file, descriptor):
            return None
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "qlora_studio.runs.metric_part_child", str(start), str(end)],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what it can't do is done here; a person need not read of it
            cwd=APP_FOLDER,
            env=child_environment() | {"OPENBLAS_NUM_THREADS": "1"},  # numpy loads faster
            start_new_session=True,
            creationflags=_NO_WINDOW,
        )
    except OSError:
        return None
    finally:
        os.close(file)


def _cuts(descriptor: int, start: int, end: int, count: int) -> list[int]:
    """Where parts of about equal size begin, and `end`."""
    cuts = [start]
    for number in range(1, count):
        cut = _line_after(descriptor, start + (end - start) * number // count, end)
        if cuts[-1] < cut < end:
            cuts.append(cut)
    return [*cuts, end]


def _line_after(descriptor: int, offset: int, end: int) -> int:
    """Where the next line begins; `end` where none does before."""
    while offset < end:
        os.lseek(descriptor, offset, os.SEEK_SET)
        block = os.read(descriptor, min(_LOOK_AHEAD, end - offset))
        if not block:
            return end
        if place := block.find(b"\n") + 1:
            return offset + place
        offset += len(block)
    return end


def _cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_FACTS = msgspec.msgpack.Decoder(PartFacts)
