"""The lines of `metrics.jsonl`, decoded a block at a time: what charts and history need of each event.

The events are the protocol's; here they are read leniently, as any version may have written them. A line of
an unknown type is passed over, a broken one is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Annotated, Any, Union, cast

import msgspec

MOST_MEMORY_PARTS = 32

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # fits int64 and float64 exactly


class _Line(msgspec.Struct, gc=False, kw_only=True, tag_field="type"):
    """gc=False: no line refers to itself, and a million of them are not walked through."""


class StepLine(_Line, tag="step_finished"):
    """One update. The decoder adds a field for the memory, by the parts met so far."""

    step: Count
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: Count = 0
    learned_tokens: Count = 0
    tokens_per_second: float | None = None
    learned_tokens_per_second: float | None = None
    elapsed_s: float | None = None
    others_bytes: Count = 0
    in_ram_bytes: Count = 0
    non_finite: str | None = None


class StartLine(_Line, tag="run_started"):
    """The run goes on after `step`: what was measured beyond it is superseded."""

    step: Count
    total_steps: Count = 0
    device_bytes: Count = 0


class EvaluationLine(_Line, tag="evaluation_finished"):
    """Loss on the rows held out, after `step`; right: of so many questions, where they were asked.

    kind: letters | numbers; older lines have none and mean letters
    """

    step: Count
    loss: float | None = None
    perplexity: float | None = None
    best: bool = False
    time: float | None = None
    non_finite: str | None = None
    learned_tokens: Count = 0  # that the loss is the mean of
    right: Count | None = None
    questions: Count = 0
    kind: str = ""


class RewardLine(_Line, tag="rewards_measured"):
    """How far better answers are preferred, after `step`; nats."""

    step: Count
    held_out: bool = False
    margin: float | None = None
    accuracy: float | None = None


class CheckpointLine(_Line, tag="checkpoint_saved"):
    """A checkpoint was written after `step`."""

    step: Count


class FinishedLine(_Line, tag="run_finished"):
    """`state`: finished | stopped | paused."""

    step: Count
    state: str = "finished"


class ProblemText(msgspec.Struct, frozen=True, gc=False):
    """What a person was told."""

    message: str = ""
    hint: str = ""


class FailedLine(_Line, tag="run_failed"):
    """The run ended by an error."""

    error: ProblemText = ProblemText()
    step: Count = 0
    cause: str = "error"
    ways: tuple[str, ...] = ()
    rows: tuple[Count, ...] = ()


Line = StepLine | StartLine | EvaluationLine | RewardLine | CheckpointLine | FinishedLine | FailedLine

_READ = {
    "run_started": StartLine,
    "evaluation_finished": EvaluationLine,
    "rewards_measured": RewardLine,
    "checkpoint_saved": CheckpointLine,
    "run_finished": FinishedLine,
    "run_failed": FailedLine,
}
_PASSED_OVER = {
    name: msgspec.defstruct(name, [], bases=(_Line,), tag=name, gc=False)
    for name in ("engine_ready", "model_loaded", "saving", "sample_ready")
}
_BETWEEN_STEPS = frozenset((*_READ.values(), *_PASSED_OVER.values()))
_TYPE = b'"type"'  # stands in every event; to try each line of a file without it would take minutes
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def sittings(lines: Sequence[Line]) -> Iterator[tuple[StartLine | None, Sequence[Line]]]:
    """The lines after each start of the run, with that start; first those before any."""
    if StartLine not in map(type, lines):
        yield None, lines
        return
    starts = [index for index, line in enumerate(lines) if type(line) is StartLine]
    yield None, lines[: starts[0]]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield cast(StartLine, lines[start]), lines[start + 1 : end]


def split(lines: Sequence[Line]) -> tuple[list[StepLine], list[tuple[int, Line]]]:
    """The updates, and all other lines with the number of updates before each."""
    steps = list(lines)
    if _BETWEEN_STEPS.isdisjoint(map(type, lines)):  # most blocks of a long run
        return cast(list[StepLine], steps), []
    others = [index for index, line in enumerate(lines) if type(line) in _BETWEEN_STEPS]
    for index in reversed(others):
        del steps[index]
    return cast(list[StepLine], steps), [(index - gone, lines[index]) for gone, index in enumerate(others)]


def memory_of(steps: Sequence[StepLine]) -> Iterator[int]:
    """Bytes of every part of the first step, then of every part of the second, and so on."""
    memories = [line.memory for line in steps]  # type: ignore[attr-defined]
    return chain.from_iterable(map(msgspec.structs.astuple, memories))


class LineDecoder:
    """Blocks of whole lines in, lines out.

    memory_parts: names of the parts of a step's memory, in the order they were met
    """

    def __init__(self) -> None:
        self.memory_parts: tuple[str, ...] = ()
        self._decoder = _decoder_for(())

    def decode(self, block: bytes) -> tuple[list[Line], int]:
        """The lines of `block` that are whole, and how many are not."""
        while True:
            try:
                if not block.isascii():
                    block.decode()  # msgspec doesn't look into text that it passes over
                return self._decoder.decode_lines(block), 0
            except _BROKEN:
                texts, broken = _told_apart(block)
                if not self._learn_memory_parts(texts):
                    lines, more = self._one_by_one(texts)
                    return lines, broken + more

    def know(self, memory_parts: tuple[str, ...]) -> None:
        """Of parts that were met elsewhere; those known before come first."""
        if memory_parts != self.memory_parts:
            self.memory_parts = memory_parts
            self._decoder = _decoder_for(memory_parts)

    def _learn_memory_parts(self, texts: Sequence[bytes]) -> bool:
        """Structs decode twice as fast as dicts, but must know their keys. Whether there were new ones."""
        found = dict.fromkeys(self.memory_parts)
        for line in texts:
            try:
                found.update(dict.fromkeys(msgspec.json.decode(line, type=_StepMemory).memory))
            except _BROKEN:
                continue
        parts = tuple(found)[:MOST_MEMORY_PARTS]
        if parts == self.memory_parts:
            return False
        self.know(parts)
        return True

    def _one_by_one(self, texts: Sequence[bytes]) -> tuple[list[Line], int]:
        lines: list[Line] = []
        broken = 0
        for text in texts:
            try:
                text.decode()
                lines.append(self._decoder.decode(text))
            except _BROKEN:
                broken += not _is_of_unknown_type(text)
        return lines, broken


def _told_apart(block: bytes) -> tuple[list[bytes], int]:
    """The lines that may be events, and how many others there are that aren't blank."""
    texts = [text for text in block.split(b"\n") if _TYPE in text] if _TYPE in block else []
    lines = block.translate(None, b" \t\r\v\f").split(b"\n")
    return texts, len(lines) - lines.count(b"") - len(texts)


class _StepMemory(msgspec.Struct):
    memory: dict[str, Count] = {}


class _AnyLine(msgspec.Struct):
    type: str


@lru_cache(64)  # a new one takes a millisecond
def _decoder_for(parts: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    memory = msgspec.defstruct(
        "StepMemory",
        [(f"part_{index}", Count, 0) for index in range(len(parts))],
        rename={f"part_{index}": name for index, name in enumerate(parts)},
        gc=False,
        forbid_unknown_fields=True,
    )
    step = msgspec.defstruct(
        "StepLineWithMemory",
        [("memory", memory, msgspec.field(default_factory=memory))],
        bases=(StepLine,),
        tag="step_finished",
        gc=False,
        kw_only=True,
    )
    return msgspec.json.Decoder(Union[(step, *_BETWEEN_STEPS)])


def _is_of_unknown_type(text: bytes) -> bool:
    try:
        return msgspec.json.decode(text, type=_AnyLine).type not in {"step_finished", *_READ, *_PASSED_OVER}
    except _BROKEN:
        return False
