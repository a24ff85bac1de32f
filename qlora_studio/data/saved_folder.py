"""A folder that `datasets` saved with `save_to_disk`: its state names the files that hold its rows."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qlora_studio.data.path_text import path_text
from qlora_studio.data.source_file import SourceFile
from qlora_studio.errors import StudioError

SAVED_STATE = "state.json"
_LARGEST_STATE = 1_000_000  # bytes; there is a name for each of its files


class _File(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    files: list[_File] = msgspec.field(name="_data_files")
    selected: list[_File] | None = msgspec.field(name="_indices_data_files", default=None)


def saved_files(folder: Path) -> list[Path] | None:
    """In their order; None where its `state.json` is something else.

    Raises: StudioError where one of them isn't there, or only some of their rows belong to the data set.
    """
    file = folder / SAVED_STATE
    try:
        with SourceFile(file) as opened:  # not `open`: a pipe of that name would wait for a writer
            state = msgspec.json.decode(opened.read(0, _LARGEST_STATE), type=_State)
    except (StudioError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if state.selected:
        raise StudioError(
            f"{path_text(file)} names a selection of rows, as old versions of `datasets` saved it.",
            hint="Load and save it again with a newer version.",
        )
    paths = [folder / entry.filename for entry in state.files]
    for path in paths:
        if path.parent != folder or not path.is_file():
            raise StudioError(
                f"{path_text(file)} names {path.name or 'a file'!r}, which isn't in its folder.",
                hint="Copy or download the whole folder again.",
            )
    return paths
