"""A folder put into the system's bin, and taken out again where the bin tells where it lies."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

from qlora_studio.errors import StudioError


def move_to_bin(folder: Path) -> Callable[[], None] | None:
    """What takes it out again; None where this system's bin doesn't tell. Raises: StudioError."""
    from send2trash import send2trash

    before = set(_entries(folder))
    try:
        send2trash(folder)
    except OSError as error:
        raise StudioError(
            f"{folder} could not be moved to the bin: {error}.",
            hint="Nothing was deleted. Move it by hand, or look at the folder's permissions.",
        ) from error
    new = [entry for entry in _entries(folder) if entry not in before and _origin(entry) == folder]
    return (lambda: _take_out(new[0], folder)) if len(new) == 1 else None


def _take_out(entry: Path, folder: Path) -> None:
    """Raises: StudioError."""
    binned = entry.parent.parent / "files" / entry.stem
    if os.path.lexists(folder):
        raise StudioError(f"{folder} is there again; the one in the bin stays there.")
    try:
        binned.rename(folder)
        entry.unlink()
    except OSError as error:
        raise StudioError(f"{folder} could not be taken out of the bin: {error.strerror}.") from error


def _entries(folder: Path) -> Iterator[Path]:
    """The `.trashinfo` files of the bins of the freedesktop.org specification that `folder` may go to."""
    if os.name == "nt":
        return
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    top = folder.absolute()
    while not top.is_mount() and top != top.parent:
        top = top.parent
    for place in (data / "Trash", top / f".Trash-{os.getuid()}", top / ".Trash" / str(os.getuid())):
        yield from (place / "info").glob("*.trashinfo")


def _origin(entry: Path) -> Path | None:
    """Where a thing in the bin came from."""
    try:
        lines = entry.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    told = next((line[5:] for line in lines if line.startswith("Path=")), None)
    if told is None:
        return None
    path = Path(urllib.parse.unquote(told))
    if path.is_absolute():
        return path
    place = entry.parent.parent  # .Trash-1000, or .Trash/1000, of a volume
    return (place.parent.parent if place.parent.name == ".Trash" else place.parent) / path
