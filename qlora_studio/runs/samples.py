"""The user's prompts, answered at each checkpoint: read from `samples.jsonl`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import read_file

SAMPLES_FILE = "samples.jsonl"

_LARGEST_FILE = 256_000_000  # bytes


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Reply to prompt number `index` after `step`."""

    step: int
    index: int
    prompt: str
    reply: str
    tokens: int = 0
    time: float = 0.0  # unix seconds, for display


@dataclass(frozen=True)
class Samples:
    """In the order of their steps, one for each step and prompt."""

    samples: tuple[Sample, ...]
    skipped_lines: int


def read_samples(path: Path) -> Samples:
    """Later lines win; those beyond a step that comes again are superseded. Raises: StudioError."""
    try:
        data = read_file(path, _LARGEST_FILE)
    except FileNotFoundError:
        return Samples((), 0)
    except OSError as error:
        raise StudioError(f"{path} can't be read: {error.strerror}.") from error
    found: list[Sample] = []
    broken = 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            sample = msgspec.json.decode(line, type=Sample)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            broken += 1
            continue
        while found and (found[-1].step, found[-1].index) >= (sample.step, sample.index):
            found.pop()
        found.append(sample)
    return Samples(tuple(found), broken)
