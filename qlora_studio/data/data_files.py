"""Which files an import reads: the one that was named, or the data files of a folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.config.places import sample_data_file
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.data.file_names import DATA_SUFFIXES, data_suffix
from qlora_studio.data.path_text import path_text
from qlora_studio.data.saved_folder import SAVED_STATE, saved_files
from qlora_studio.errors import StudioError

_NOT_DATA = re.compile(
    r"(readme|license|licence|notice|citation|changelog|requirements"
    r"|dataset_(infos?|dict)|state|config|package)(\.|$)|~\$",  # ~$: what Office keeps of an open file
    re.I,
)
_CACHED = re.compile(r"cache-.*\.arrow$")  # what `datasets` computed once lies beside its data
_HELD_OUT = re.compile(r"(^|[^a-z])(test|valid|validation|val|dev|eval)([^a-z]|$)", re.I)
_TRAIN = re.compile(r"(^|[^a-z])train(ing)?([^a-z]|$)", re.I)
_MOST_FILES = 1_000  # each of them is kept open
_MOST_ENTRIES = 100_000


@dataclass(frozen=True)
class DataFiles:
    """Files in the order they are read, and what else is in the folder.

    held_out: files with rows that are not to be learned, by their names
    ignored:  whatever holds no rows: cards, scripts, hidden files and folders
    """

    files: tuple[Path, ...]
    folder: Path | None = None
    held_out: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """What of the names bears on how files are read: of one file its ending, of a folder all of them."""
        if self.folder is None:
            return [suffix for path in self.files if (suffix := data_suffix(path))]
        return [path_text(path.relative_to(self.folder)) for path in self.files] + list(self.held_out)


def data_files(path: str) -> DataFiles:
    """`path` may be "sample". Raises: StudioError where there is nothing to read."""
    if path == SAMPLE:
        return DataFiles((sample_data_file(),))
    if not path:
        raise StudioError("No data is chosen.", hint="Choose a file with rows.")
    try:
        chosen = Path(path).expanduser().absolute()
        is_folder = chosen.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~somebody who isn't there
        raise StudioError(f"{path!r} can't be opened.") from error
    if not is_folder:
        return DataFiles((chosen,))
    files, ignored = _files_below(chosen)
    if not files:
        raise StudioError(
            f"{path_text(chosen)} holds no data file.",
            hint=f"Files that end in {', '.join(sorted(DATA_SUFFIXES))} are read.",
        )
    return _without_held_out(files, chosen, ignored)


def _files_below(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Data files, and names of what is none."""
    found: list[Path] = []
    ignored: list[Path] = []
    entries = 0
    for parent, folders, names in os.walk(folder):  # follows no link
        here = Path(parent)
        hidden = sorted(name for name in folders if name.startswith("."))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        entries += len(folders) + len(names)
        data = saved_files(here) if SAVED_STATE in names else None
        if data is None:
            data = [here / name for name in sorted(names) if _is_data(here / name)]
        found += data
        ignored += [here / name for name in hidden]
        ignored += sorted({here / name for name in names}.difference(data))
        if entries > _MOST_ENTRIES or len(found) > _MOST_FILES:
            raise StudioError(
                f"{path_text(folder)} holds too much to be a folder of data files.",
                hint="Choose the folder of one data set.",
            )
    filled = [path for path in found if not _is_empty(path)] or found  # an empty part beside full ones
    ignored += [path for path in found if path not in filled]
    return filled, tuple(path_text(path.relative_to(folder)) for path in ignored)


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:  # reading it says why
        return False


def _is_data(path: Path) -> bool:
    return (
        bool(data_suffix(path))
        and not path.name.startswith(".")
        and not _NOT_DATA.match(path.name)
        and not _CACHED.match(path.name)
        and path.is_file()
    )


def _without_held_out(files: list[Path], folder: Path, ignored: tuple[str, ...]) -> DataFiles:
    """Where some names say train and others test, only the first are taken: test rows must not be learned."""
    names = {path: path_text(path.relative_to(folder)) for path in files}
    held_out = [path for path in files if _HELD_OUT.search(names[path]) and not _TRAIN.search(names[path])]
    if not held_out or not any(_TRAIN.search(name) for name in names.values()):
        return DataFiles(tuple(files), folder, ignored=ignored)
    kept = tuple(path for path in files if path not in held_out)
    return DataFiles(kept, folder, tuple(names[path] for path in held_out), ignored)
