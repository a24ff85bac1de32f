"""What a person writes about a run: its name as shown, tags and a note."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qlora_studio.runs.durable import read_file, write_file_durably
from qlora_studio.runs.space import saving

NOTES_FILE = "notes.json"
SCHEMA_VERSION = 1

_LARGEST_NOTES = 1_000_000  # bytes


class Notes(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is empty where the run keeps the one it was started with."""

    schema_version: int = SCHEMA_VERSION
    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""


def write_notes(folder: Path, notes: Notes) -> None:
    """Raises: StudioError."""
    path = folder / NOTES_FILE
    with saving("the note", path):
        write_file_durably(path, msgspec.json.encode(notes))


def read_notes(folder: Path) -> Notes:
    """Empty where there are none, or none that can be read: they are never needed."""
    try:
        notes = msgspec.json.decode(read_file(folder / NOTES_FILE, _LARGEST_NOTES), type=Notes)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Notes()
    return notes if notes.schema_version <= SCHEMA_VERSION else Notes()
