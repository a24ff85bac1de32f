"""The adapter that a run trains on: found by its folder or its run, and kept in the new run's own folder."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.runs.checkpoints import newest_sound
from qlora_studio.runs.durable import is_real_folder, open_to_read
from qlora_studio.runs.run_record import RECORD_FILE, RunRecord, read_record
from qlora_studio.runs.standing import ADAPTER_FOLDER, ENDED, MODEL_FOLDER, standing_of

START_FILE = "start_adapter.safetensors"


@dataclass(frozen=True)
class StartAdapter:
    """folder: with the adapter's files; record: of the run that made it, None where it is none of ours."""

    folder: Path
    record: RunRecord | None


def start_adapter(named: Path) -> StartAdapter:
    """Of a run its finished adapter, or its newest sound checkpoint where it went on since. Any other folder
    as it is.

    Raises: StudioError where the run has neither, or can't be read.
    """
    if not (named / RECORD_FILE).is_file():
        return StartAdapter(named, _record_above(named))
    record = read_record(named).record
    if record.config.trains_all:
        raise StudioError(
            f"{named} trained all weights and has no adapter.",
            hint=f"Take what it made as the model: {named / MODEL_FOLDER}.",
        )
    finished = named / ADAPTER_FOLDER
    is_there = is_real_folder(finished)
    if is_there and standing_of(named, record)[0].state in ENDED:
        return StartAdapter(finished, record)
    checkpoint = newest_sound(named)
    if checkpoint is None and is_there:
        return StartAdapter(finished, record)
    if checkpoint is None:
        raise StudioError(
            f"{named} has neither an adapter nor a sound checkpoint yet.",
            hint="Let that run train to its first checkpoint, or choose another one.",
        )
    return StartAdapter(checkpoint.path, record)


def require_start(folder: Path, sha256: str) -> Path:
    """The file in a run's own folder. Raises: StudioError where it isn't what the run was made with."""
    file = folder / START_FILE
    try:
        with os.fdopen(open_to_read(file), "rb", buffering=0) as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise StudioError(
            f"{file}, which this run starts from, can't be read: {error.strerror}.", hint="Start a new run."
        ) from error
    if found != sha256:
        raise StudioError(f"{file} is not what this run was made to start from.", hint="Start a new run.")
    return file


def _record_above(folder: Path) -> RunRecord | None:
    """Of the run in which an adapter's or a checkpoint's folder lies."""
    for above in (folder.parent, folder.parent.parent):
        if (above / RECORD_FILE).is_file():
            try:
                return read_record(above).record
            except StudioError:
                return None  # the adapter itself is checked, whatever lies beside it
    return None
