"""The folders of the window: how much lies in each, which may be taken instead, what the cache can lose."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from qlora_studio.config import places
from qlora_studio.errors import StudioError
from qlora_studio.state.preferences import PreferencesState

_KEPT = {"indicators"}  # ticks and arrows of the window that is open


@dataclass(frozen=True)
class FolderSizes:
    """Bytes of all files in each folder."""

    runs: int
    models: int
    cache: int


class FoldersState(QObject):
    """changed: `sizes` is another one; None while it is counted. cleared: bytes that the cache gave back.

    failed: why nothing was cleared, in words
    """

    changed = Signal()
    cleared = Signal(object)  # int: more than 32 bits
    failed = Signal(str)
    _counted = Signal(object)

    def __init__(self, preferences: PreferencesState, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._preferences = preferences
        self.sizes: FolderSizes | None = None
        self._counted.connect(self._on_counted)

    def count(self) -> None:
        """Counts anew, in a thread."""
        self.sizes = None
        self.changed.emit()
        self._in_thread(self._count, self._preferences.runs_folder)

    def use(self, which: str, folder: Path) -> None:
        """which: runs | models | cache. What lies in the old one stays there.

        Raises: StudioError where it can't be written to; the old one then stays in use.
        """
        check_writable(folder)
        self._preferences.set(f"{which}_folder", str(folder.absolute()))
        self.count()

    def clear_cache(self) -> None:
        """All that can be made again, but not the rows of a run that isn't finished."""
        self._in_thread(self._clear, self._preferences.runs_folder)

    def _count(self, runs_folder: Path) -> None:
        sizes = FolderSizes(
            size_of(runs_folder), size_of(self._preferences.models_folder), size_of(places.cache_folder())
        )
        self._counted.emit(sizes)

    def _clear(self, runs_folder: Path) -> None:
        before = size_of(places.cache_folder())
        try:
            clear_cache(places.cache_folder(), rows_in_use(runs_folder))
        except StudioError as error:
            self.failed.emit(str(error))
            return
        self.cleared.emit(before - size_of(places.cache_folder()))
        self._count(runs_folder)

    def _on_counted(self, sizes: FolderSizes) -> None:
        self.sizes = sizes
        self.changed.emit()

    def _in_thread(self, work: Callable[[Path], None], runs_folder: Path) -> None:
        def guarded() -> None:
            try:
                work(runs_folder)
            except RuntimeError:  # the window is gone
                return

        threading.Thread(target=guarded, name="folders", daemon=True).start()


def check_writable(folder: Path) -> None:
    """Raises: StudioError with the reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise StudioError(
            f"{folder} can't be written to: {error.strerror}.", hint="The folder before it stays in use."
        ) from error


def size_of(folder: Path) -> int:
    """Bytes of the files under `folder`; what can't be read counts as nothing."""
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(here) / name).lstat().st_size
            except OSError:
                continue
    return total


def rows_in_use(runs_folder: Path) -> set[Path]:
    """Folders of prepared rows that a run needs to go on with. Raises: StudioError."""
    from qlora_studio.runs.history import list_runs

    runs = [row.run for row in list_runs(runs_folder) if row.run is not None]
    return {
        Path(run.record.prepared.folder)
        for run in runs
        if run.record.prepared.folder and run.state.state != "finished"
    }


def clear_cache(cache: Path, in_use: set[Path]) -> None:
    """Removes every file under `cache` that no unfinished run needs; what can't be removed stays."""
    try:
        entries = list(cache.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name in _KEPT or entry in in_use:
            continue
        if any(entry in used.parents for used in in_use):
            clear_cache(entry, in_use)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
