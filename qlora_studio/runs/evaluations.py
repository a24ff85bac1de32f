"""What a run was found to know, file by file: lines of `evaluations.jsonl` in its folder, oldest first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import LineAppender, read_end
from qlora_studio.runs.space import saving

EVALUATIONS_FILE = "evaluations.jsonl"
SCHEMA_VERSION = 1
MOST_CHANGED = 200  # rows that an evaluation keeps

_MOST_BYTES = 16_000_000  # that are read: the newest, of thousands of evaluations


class ChangedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A question that base and adapter answer otherwise, one of them right. row: index in the data set."""

    row: int
    question: str
    right: str
    base: str
    adapter: str


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The adapter after `step` on the rows of `file`.

    loss:          nats per learned token, `base_loss` that of the base alone
    accuracy:      share of right answers with the adapter, where answers can be compared
    base_accuracy: of the base alone on the same questions; with it the 95 % interval `low` to `high` of the
                   difference (paired bootstrap) and the p-value of the exact McNemar test
    kind:          what was compared: letters | numbers | answers
    answered:      rows of which answers were compared
    gained, lost:  questions that only the adapter, and only the base answers right
    changed:       the first MOST_CHANGED of these, in order
    notes:         why rows of the file are missing, in sentences
    """

    schema_version: int = SCHEMA_VERSION
    time: float  # seconds since 1970, for display
    step: int
    file: str
    rows: int
    loss: float | None = None
    base_loss: float | None = None
    accuracy: float | None = None
    base_accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    kind: str = ""
    answered: int = 0
    gained: int = 0
    lost: int = 0
    changed: tuple[ChangedRow, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluations:
    """skipped_lines: that can't be read, or only by a newer version; all before _MOST_BYTES count as one."""

    found: tuple[Evaluation, ...]
    skipped_lines: int


def add_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """To those of the run. Raises: StudioError."""
    path = folder / EVALUATIONS_FILE
    with saving("the evaluation", path):
        lines = LineAppender(path)
        try:
            lines.append(msgspec.json.encode(evaluation) + b"\n")
            lines.sync()
        finally:
            lines.close()


def read_evaluations(folder: Path) -> Evaluations:
    """Raises: StudioError."""
    path = folder / EVALUATIONS_FILE
    try:
        data, cut = read_end(path, _MOST_BYTES)
    except FileNotFoundError:
        return Evaluations((), 0)
    except OSError as error:
        raise StudioError(f"{path} can't be read: {error.strerror}.") from error
    lines = [line for line in data.split(b"\n")[cut:] if line.strip()]
    found = [evaluation for line in lines if (evaluation := _read(line)) is not None]
    return Evaluations(tuple(found), len(lines) - len(found) + cut)


def when(evaluation: Evaluation) -> str:
    """Its day and hour here; empty beyond the calendar."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(evaluation.time))
    except (OverflowError, OSError, ValueError):
        return ""


def latest(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Of each file and step the last one, in the order they were first made."""
    return list({(evaluation.file, evaluation.step): evaluation for evaluation in evaluations}.values())


def share_words(share: float | None) -> str:
    """Empty where it isn't known."""
    return "" if share is None else f"{share:.1%}"


def difference_words(item: Evaluation) -> str:
    """In points, with its 95 % interval; empty where base and adapter weren't compared."""
    if item.base_accuracy is None or item.accuracy is None or item.low is None or item.high is None:
        return ""
    by, low, high = (in_points(share) for share in (item.accuracy - item.base_accuracy, item.low, item.high))
    return f"{by} ({low} to {high})"


def in_points(share: float) -> str:
    """Of a hundred; never "-0.0"."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _read(line: bytes) -> Evaluation | None:
    try:
        evaluation = msgspec.json.decode(line, type=Evaluation)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return evaluation if evaluation.schema_version <= SCHEMA_VERSION else None
