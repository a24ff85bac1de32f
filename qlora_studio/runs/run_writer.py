"""The engine's hold on a run folder: everything that is written while a run trains goes through here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType

from qlora_studio.config.setting import check_limits
from qlora_studio.errors import StudioError
from qlora_studio.runs.checkpoints import CHECKPOINTS_FOLDER, save_checkpoint
from qlora_studio.runs.durable import LineAppender, drop_torn, is_real_folder
from qlora_studio.runs.less_memory import LESS_MEMORY_FILE
from qlora_studio.runs.lock import RunLock
from qlora_studio.runs.manifest import sync_files
from qlora_studio.runs.metrics import METRICS_FILE
from qlora_studio.runs.run_record import RECORD_FILE, RunRecord, read_record
from qlora_studio.runs.run_state import STATE_FILE, RunState, write_state
from qlora_studio.runs.samples import SAMPLES_FILE
from qlora_studio.runs.space import saving
from qlora_studio.runs.staged_folder import finish_interrupted_writes, write_folder_durably
from qlora_studio.runs.standing import ADAPTER_FOLDER, MODEL_FOLDER


class RunWriter:
    """One at a time for each run (R8). Use as a context; the lock goes with it.

    After a StudioError from any write the run pauses: a new writer goes on, on the same folder.
    """

    def __init__(self, folder: Path) -> None:
        """Raises: RunLockedError where another engine writes, StudioError where this version can't."""
        self.folder = folder
        self._lock = RunLock(folder)
        try:
            self.record: RunRecord = _record_to_continue(folder)
            with saving("the run", folder / RECORD_FILE):
                _tidy(folder)
                self._metrics = LineAppender(folder / METRICS_FILE)
                self._samples = LineAppender(folder / SAMPLES_FILE)
        except BaseException:
            self._lock.release()
            raise

    def append_event(self, line: bytes) -> None:
        """One whole line of `metrics.jsonl`, with its end (R5). Raises: StudioError, DiskFullError."""
        with saving("the metrics", self._metrics.path, len(line)):
            self._metrics.append(line)

    def append_sample(self, line: bytes) -> None:
        """One whole line of `samples.jsonl`. Raises: StudioError, DiskFullError."""
        with saving("the samples", self._samples.path, len(line)):
            self._samples.append(line)

    def save_state(self, state: RunState) -> None:
        """Raises: StudioError, DiskFullError."""
        write_state(self.folder, state)

    def save_checkpoint(
        self,
        step: int,
        write_files: Callable[[Path], None],
        protect: Collection[int] = (),
        expected_bytes: int = 0,
    ) -> Path:
        """As `checkpoints.save_checkpoint`; the metrics up to `step` are on the disk before it is."""
        with saving("the metrics", self._metrics.path):
            self._metrics.sync()
            self._samples.sync()
        keep = self.record.config.checkpoints.keep
        return save_checkpoint(self.folder, step, write_files, keep, protect, expected_bytes)

    def write_adapter(self, write_files: Callable[[Path], None], expected_bytes: int = 0) -> Path:
        """The finished adapter, whole or as it was. Raises: StudioError, DiskFullError."""
        return self._write_result(ADAPTER_FOLDER, "the adapter", write_files, expected_bytes)

    def write_model(self, write_files: Callable[[Path], None], expected_bytes: int = 0) -> Path:
        """The finished model, where all weights were trained; as `write_adapter`."""
        return self._write_result(MODEL_FOLDER, "the model", write_files, expected_bytes)

    def _write_result(
        self, name: str, what: str, write_files: Callable[[Path], None], expected_bytes: int
    ) -> Path:
        target = self.folder / name

        def fill(staging: Path) -> None:
            write_files(staging)
            sync_files(staging)

        write_folder_durably(target, fill, what, expected_bytes)
        return target

    def close(self) -> None:
        """May be called again. Raises: StudioError where the last lines can't be put on the disk."""
        try:
            with saving("the metrics", self._metrics.path):
                self._metrics.close()
                self._samples.close()
        finally:
            self._lock.release()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _record_to_continue(folder: Path) -> RunRecord:
    read = read_record(folder)
    if read.newer or read.unknown_keys:
        unknown = f" Unknown settings: {', '.join(read.unknown_keys)}." if read.unknown_keys else ""
        raise StudioError(
            f"{folder / RECORD_FILE} was written by a newer version; the run can be looked at only.{unknown}",
            hint="Update QLoRA Studio to continue it.",
        )
    check_limits(read.record.config, str(folder / RECORD_FILE))
    return read.record


def _tidy(folder: Path) -> None:
    """What a writer that was killed left half done."""
    finish_interrupted_writes(folder)
    for file in (STATE_FILE, LESS_MEMORY_FILE):
        drop_torn(folder / file)
    if is_real_folder(folder / CHECKPOINTS_FOLDER):
        finish_interrupted_writes(folder / CHECKPOINTS_FOLDER)
