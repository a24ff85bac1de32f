"""One writer per run folder: a lock of the operating system, gone with the process that holds it."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from types import TracebackType

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import open_lock_file, open_to_read

LOCK_FILE = "lock"

_PATIENCE_S = 0.5  # longer than any probe holds the lock, shorter than a person waits
_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


class RunLockedError(StudioError):
    """Another process writes to this run: an engine, whose window or command may be gone already (R7)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"The run {folder.name} is open elsewhere: another window or command trains it.",
            hint="It can be looked at here, and goes on once it has ended there. If that window or command "
            "was closed or killed just now, the step in hand is still finished and saved: try again in a "
            "moment.",
        )


class RunLock:
    """Held by the engine while it writes to a run. The file is empty and stays; the lock is the system's."""

    def __init__(self, folder: Path) -> None:
        """Raises: RunLockedError where another process holds it, StudioError where there can be no lock."""
        self._path = folder / LOCK_FILE
        try:
            self._descriptor: int | None = open_lock_file(self._path)
        except OSError as error:
            raise StudioError(f"{self._path} can't be opened: {error.strerror}.") from error
        try:
            if not _lock_within(self._descriptor, _PATIENCE_S):
                raise RunLockedError(folder)
        except OSError as error:
            self.release()
            raise StudioError(f"{self._path} can't be locked: {error.strerror}.") from error
        except StudioError:
            self.release()
            raise

    def release(self) -> None:
        """May be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(folder: Path) -> bool:
    """Whether a process writes to the run. A writer that starts in the moment of the look waits for it."""
    try:
        descriptor = open_to_read(folder / LOCK_FILE)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, shared=True)
    except OSError:
        return False  # no locks on this file system: nobody could have started
    finally:
        os.close(descriptor)


def _lock_within(descriptor: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not _try_lock(descriptor, shared=False):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int, shared: bool) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise
        if shared:
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        return True
else:
    import fcntl

    def _try_lock(descriptor: int, shared: bool) -> bool:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise
        return True
