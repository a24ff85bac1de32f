"""Room on the disk: what a run will need, what is missing, and the words for a write that failed."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from qlora_studio.errors import StudioError

SPARE_BYTES = 2_000_000_000  # left free beside the checkpoints (R9)

_FULL = {errno.ENOSPC, errno.EDQUOT}
# Native writers give the number as text, and so does what passes an OSError of another process on.
_FULL_IN_WORDS = ("os error 28)", "os error 112)", "os error 122)", "[Errno 28]", "[Errno 122]")


class DiskFullError(StudioError):
    """A write that failed for want of room; the run pauses and can go on once there is some."""

    def __init__(self, message: str, hint: str, folder: Path, missing_bytes: int) -> None:
        super().__init__(message, hint)
        self.folder = folder
        self.missing_bytes = missing_bytes


def checkpoints_need(checkpoint_bytes: int, keep: int, held: int = 0) -> int:
    """Bytes to have free before a run starts: checkpoints kept, the one being written, some to spare.

    held: bytes of those that are there already; they make room for the next ones
    """
    return max(checkpoint_bytes * (keep + 1) - held, checkpoint_bytes) + SPARE_BYTES


def free_bytes(folder: Path) -> int:
    """On the disk that holds `folder`, which need not exist yet. Raises: StudioError."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        return shutil.disk_usage(there).free
    except OSError as error:
        raise StudioError(f"The free space at {folder} can't be measured: {error.strerror}.") from error


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises: DiskFullError naming how much is missing for `what`, and where."""
    missing = needed_bytes - free_bytes(folder)
    if missing > 0:
        raise DiskFullError(
            f"{what} needs {in_gb(needed_bytes)}; {in_gb(missing)} of it is missing on the disk of {folder}.",
            "Free some space there, or choose another folder.",
            folder,
            missing,
        )


@contextlib.contextmanager
def saving(what: str, path: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Raises: StudioError in place of an OSError; DiskFullError where there is no room.

    what:         for a sentence that begins with "Could not save"
    needed_bytes: all that `what` takes, where known: the free space tells how much of it is missing
    """
    try:
        yield
    except OSError as error:
        raise _in_words(error, what, path, needed_bytes) from error


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` means that there was no room, also as a native library puts it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return any(words in str(error) for words in _FULL_IN_WORDS)


def disk_full(what: str, path: Path, needed_bytes: int) -> DiskFullError:
    """The error for `what`, which did not fit."""
    missing = max(needed_bytes - free_bytes(path.parent), 0)
    amount = f"{in_gb(missing)} is missing" if missing else "there is no room left"
    return DiskFullError(
        f"Could not save {what}: {amount} on the disk of {path.parent}.",
        "What was saved before is kept. Free some space there, then continue.",
        path.parent,
        missing,
    )


def in_gb(count: int) -> str:
    """Bytes for a person, never rounded down to nothing."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def _in_words(error: OSError, what: str, path: Path, needed_bytes: int) -> StudioError:
    if is_disk_full(error):
        return disk_full(what, path, needed_bytes)
    place = error.filename or path
    return StudioError(
        f"Could not save {what}: {error.strerror} ({place}).",
        hint="What was saved before is kept. Check the disk and the folder's permissions, then continue.",
    )
