"""The course of a long run from a part of its lines: something to look at while all are being read."""

from __future__ import annotations

import os
from pathlib import Path

from qlora_studio.runs.durable import open_to_read
from qlora_studio.runs.metrics import MetricsTail

SKETCHED_FROM = 64 << 20  # bytes; less than that is read as soon
_PIECES = 160  # a stretch every five pixels of a wide chart
_PIECE = 1 << 14  # bytes, some thirty lines: the interpreter is held for a frame, all in all


def sketched(path: Path) -> MetricsTail | None:
    """The lines of stretches as far from each other, the first and last among them; not to be read on from.

    None where the file is soon read as a whole, or can't be read: reading it says why.
    """
    try:
        descriptor = open_to_read(path)
    except OSError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        if size < SKETCHED_FROM:
            return None
        tail = MetricsTail(path)
        for number in range(_PIECES):
            tail.take(_piece(descriptor, (size - _PIECE) * number // (_PIECES - 1)))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    tail.metrics.skipped_lines = 0  # of a part it would say nothing
    return tail


def _piece(descriptor: int, offset: int) -> bytes:
    """The whole lines of one stretch."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    block = os.read(descriptor, _PIECE)
    start = block.find(b"\n") + 1 if offset else 0
    return block[start : block.rfind(b"\n") + 1]
