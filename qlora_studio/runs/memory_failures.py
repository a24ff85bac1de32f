"""Whether a run ended for want of memory before: it goes on with less of it."""

from __future__ import annotations

import mmap
from pathlib import Path

from qlora_studio.runs.metrics import METRICS_FILE

_CAUSE = b'"cause":"out_of_memory"'  # as the engine writes it


def ran_out_of_memory(folder: Path) -> bool:
    """In any sitting. False where the metrics can't be read: resuming says why."""
    try:
        with (
            (folder / METRICS_FILE).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            return text.find(_CAUSE) >= 0
    except (OSError, ValueError):  # ValueError: an empty file
        return False
