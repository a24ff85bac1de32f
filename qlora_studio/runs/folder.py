"""A run folder as a whole: made once, and opened to look at."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import (
    FOLDER_MODE,
    is_real_folder,
    make_folder,
    remove_folder,
    rename_durably,
    write_new_blocks,
    write_new_file,
)
from qlora_studio.runs.less_memory import LessMemory, read_less_memory
from qlora_studio.runs.lock import is_locked
from qlora_studio.runs.metrics import METRICS_FILE
from qlora_studio.runs.notes import Notes, read_notes
from qlora_studio.runs.run_record import RECORD_FILE, RunRecord, read_record, write_record
from qlora_studio.runs.run_state import RunState
from qlora_studio.runs.samples import SAMPLES_FILE
from qlora_studio.runs.space import saving
from qlora_studio.runs.staged_folder import delete_folder
from qlora_studio.runs.standing import ADAPTER_FOLDER, MODEL_FOLDER, standing_of
from qlora_studio.runs.start import START_FILE
from qlora_studio.runs.trained_template import TEMPLATE_FILE

LOG_FILE = "engine.log"

_LONGEST_NAME = 60  # characters, after the date


@dataclass(frozen=True)
class Run:
    """A run that can be read.

    state:        as last known; "running" only while its engine lives
    locked:       an engine writes to it, this window's or another's (R8)
    newer:        written by a newer version: it can be looked at, not continued (R15)
    unknown_keys: settings that only a newer version knows
    less_memory:  what it does otherwise than its settings say, since it was short of memory
    """

    folder: Path
    record: RunRecord
    state: RunState
    notes: Notes
    locked: bool
    newer: bool
    unknown_keys: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    less_memory: LessMemory | None = None

    @property
    def name(self) -> str:
        """As the person calls it."""
        return self.notes.name or self.record.name

    @property
    def metrics_file(self) -> Path:
        """For `MetricsTail` and `read_metrics`."""
        return self.folder / METRICS_FILE

    @property
    def samples_file(self) -> Path:
        """For `read_samples`."""
        return self.folder / SAMPLES_FILE

    @property
    def log_file(self) -> Path:
        """What the engine and its libraries said."""
        return self.folder / LOG_FILE

    @property
    def adapter(self) -> Path | None:
        """The folder of the finished adapter, once it is there."""
        folder = self.folder / ADAPTER_FOLDER
        return folder if is_real_folder(folder) else None

    @property
    def model(self) -> Path | None:
        """The folder of the finished model, where all weights were trained and it is there."""
        folder = self.folder / MODEL_FOLDER
        return folder if is_real_folder(folder) else None


def create_run(
    runs_dir: Path, record: RunRecord, template: str = "", start: Iterable[bytes] | None = None
) -> Path:
    """A new folder with `run.json` and the chat template in it: whole, or not there.

    start: the weights of the adapter that it trains on; the run keeps them, and needs their folder no more
    Raises: StudioError.
    """
    with saving("the new run", runs_dir / "run"):
        runs_dir.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        staging = runs_dir / f".staging-run-{secrets.token_hex(4)}"
        try:
            make_folder(staging)
            write_record(staging, record)
            if template:
                write_new_file(staging / TEMPLATE_FILE, template.encode("utf-8", "surrogatepass"))
            if start is not None:
                write_new_blocks(staging / START_FILE, start)
            return renamed_to_a_free_name(staging, record)
        except BaseException:
            with contextlib.suppress(OSError):
                remove_folder(staging)
            raise


def renamed_to_a_free_name(
    staging: Path, record: RunRecord, before: Callable[[Path], None] = lambda target: None
) -> Path:
    """A run that was made beside its place gets it, under the first name that is free.

    before: called with the place, ahead of each try
    Raises: OSError, StudioError, and what `before` raises.
    """
    name = _folder_name(record)
    for number in range(1, 1000):
        target = staging.with_name(name if number == 1 else f"{name}-{number}")
        if os.path.lexists(target):
            continue
        before(target)
        try:
            rename_durably(staging, target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):  # taken just now, by another window
                continue
            raise
        return target
    raise StudioError(f"{staging.parent} has too many runs named {name}.")


def remove_unstarted(folder: Path) -> None:
    """A run that was given up in the moment it was made; one that anything else is in stays.

    Raises: StudioError.
    """
    with saving("the runs folder", folder):
        as_made = {RECORD_FILE, TEMPLATE_FILE, START_FILE}
        if is_real_folder(folder) and {path.name for path in folder.iterdir()} <= as_made:
            delete_folder(folder)


def open_run(folder: Path) -> Run:
    """Raises: StudioError naming `run.json` where it can't be read."""
    if not is_real_folder(folder):
        raise StudioError(f"{folder} is no run folder, or a link.")
    read = read_record(folder)
    state, warnings = standing_of(folder, read.record)
    less_memory = None
    try:
        less_memory = read_less_memory(folder)
    except StudioError as error:  # resuming refuses; looking at the run goes on
        warnings = (*warnings, error.message)
    return Run(
        folder=folder,
        record=read.record,
        state=state,
        notes=read_notes(folder),
        locked=is_locked(folder),
        newer=read.newer,
        unknown_keys=read.unknown_keys,
        warnings=warnings,
        less_memory=less_memory,
    )


def _folder_name(record: RunRecord) -> str:
    """Such as 2026-11-24-153012-gsm8k-smollm2; bare and plain whatever the run is called."""
    plain = unicodedata.normalize("NFKD", record.name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain)[:_LONGEST_NAME].strip("-") or "run"
    return f"{time.strftime('%Y-%m-%d-%H%M%S', time.localtime(record.created))}-{words}"
