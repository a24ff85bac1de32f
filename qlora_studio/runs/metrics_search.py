"""What single lines of `metrics.jsonl` tell, found without decoding the others: it may hold a million."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from qlora_studio.runs.durable import LONGEST_LINE, open_to_read
from qlora_studio.runs.metrics import METRICS_FILE

# As the engine writes them.
_OUT_OF_MEMORY = b'"cause":"out_of_memory"'
_STEP = b'{"type":"step_finished","step":%d,'

_UNREADABLE = (OSError, ValueError)  # ValueError: an empty file


def ran_out_of_memory(folder: Path) -> bool:
    """In any sitting. False where the metrics can't be read: resuming says why."""
    try:
        with _text(folder) as text:
            return text.find(_OUT_OF_MEMORY) >= 0
    except _UNREADABLE:
        return False


def rows_of_step(folder: Path, step: int) -> tuple[int, ...]:
    """The training rows that a step computed, from 0, as its newest line tells; empty where none does."""
    try:
        with _text(folder) as text:
            at = text.rfind(_STEP % step)
            line = text[at : at + LONGEST_LINE].partition(b"\n")[0] if at >= 0 else b"{}"
        return msgspec.json.decode(line, type=_Rows).rows
    except (*_UNREADABLE, msgspec.MsgspecError):
        return ()


class _Rows(msgspec.Struct):
    rows: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()


@contextmanager
def _text(folder: Path) -> Iterator[mmap.mmap]:
    descriptor = open_to_read(folder / METRICS_FILE)
    try:
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as text:
            yield text
    finally:
        os.close(descriptor)
