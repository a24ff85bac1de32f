"""A folder that is whole or absent: filled beside its place, put on the disk, then renamed into it (R1)."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import fsync_folder, is_real_folder, make_folder, remove_folder, rename_durably
from qlora_studio.runs.space import disk_full, is_disk_full, saving

_STAGING = ".staging-"  # ours to delete at any time when nobody writes
_REPLACED = re.compile(r"\.replaced-(.+)-[0-9a-f]{8}", re.ASCII)


def write_folder_durably(
    target: Path, fill: Callable[[Path], None], what: str, expected_bytes: int = 0
) -> None:
    """`target` becomes what `fill` writes into the folder it is given, or stays what it was.

    fill: writes files and puts each on the disk
    what: for a sentence that begins with "Could not save"
    Raises: StudioError, DiskFullError, and what `fill` raises; the staging folder is then gone.
    """
    with staged_folder(target, what, expected_bytes) as staging:
        fill(staging)


@contextlib.contextmanager
def staged_folder(target: Path, what: str, expected_bytes: int = 0) -> Iterator[Path]:
    """As `write_folder_durably`, for what is written bit by bit: the block fills the folder it is given."""
    if not is_real_folder(target.parent):
        raise StudioError(f"{target.parent} is gone, or a link.", hint="Put it back, then continue.")
    staging = target.with_name(f"{_STAGING}{target.name}-{secrets.token_hex(4)}")
    with saving(what, target, expected_bytes):
        try:
            make_folder(staging)
            yield staging
            fsync_folder(staging)
            _put_in_place(staging, target)
        except BaseException as error:
            written = bytes_in(staging)
            with contextlib.suppress(OSError):
                remove_folder(staging)
            if is_disk_full(error):
                raise disk_full(what, target, max(expected_bytes, written)) from error
            raise
    drop_replaced(target)


def delete_folder(folder: Path) -> None:
    """Renamed first: it is whole or absent, also while it goes. A link stays. Raises: OSError."""
    if is_real_folder(folder):
        going = folder.with_name(f"{_STAGING}gone-{folder.name}-{secrets.token_hex(4)}")
        rename_durably(folder, going)
        remove_folder(going)


def drop_replaced(target: Path) -> None:
    """The folder that stood in the place of `target` before. What can't be deleted goes another time."""
    for path in target.parent.glob(f".replaced-{target.name}-*"):
        with contextlib.suppress(OSError):
            remove_folder(path)


def finish_interrupted_writes(parent: Path) -> None:
    """Undoes what a killed writer left half done. Only while nobody else writes. Raises: OSError."""
    for path in sorted(parent.iterdir()):
        replaced = _REPLACED.fullmatch(path.name)
        if replaced and not os.path.lexists(parent / replaced[1]):
            rename_durably(path, parent / replaced[1])
        elif (replaced or path.name.startswith(_STAGING)) and is_real_folder(path):
            remove_folder(path)


def bytes_in(folder: Path) -> int:
    """Of the files of a flat folder; 0 where it can't be read."""
    try:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder))
    except OSError:
        return 0


def _put_in_place(staging: Path, target: Path) -> None:
    """A folder can't be replaced in one step: one that is there steps aside, and comes back if this fails."""
    if not os.path.lexists(target):
        rename_durably(staging, target)
        return
    aside = target.with_name(f".replaced-{target.name}-{secrets.token_hex(4)}")
    try:
        rename_durably(target, aside)
        rename_durably(staging, target)
    except OSError:
        if not os.path.lexists(target):
            with contextlib.suppress(OSError):
                rename_durably(aside, target)
        raise
