"""Imported rows on disk, read by index, by range and by the text in them."""

from __future__ import annotations

import bisect
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from qlora_studio.data.conversation import Row
from qlora_studio.data.limits import SHOWN_CHARACTERS
from qlora_studio.data.path_text import path_text
from qlora_studio.data.report import ImportReport
from qlora_studio.data.row_table import chats_of
from qlora_studio.data.rows_writer import ARROW_FILE
from qlora_studio.data.source_file import SourceFile
from qlora_studio.errors import StudioError

SCHEMA_VERSION = 2

_IMPORT_FILE = "import.json"


class RowFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that rows came from. `copy`: the beginning of its text in the data set's folder, where the file
    itself is compressed, or isn't UTF-8."""

    path: bytes  # as the system has it: a name need not be text
    size: int
    modified_ns: int
    copy: str = ""


class ImportedSet(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside the rows; written last, so that a folder with it is whole."""

    schema_version: int = SCHEMA_VERSION
    rows: int
    arrow_bytes: int
    files: tuple[RowFile, ...]
    report: ImportReport


def write_import(folder: Path, imported: ImportedSet) -> None:
    """Say that the rows in `folder` are whole."""
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(msgspec.json.encode(imported))
    Path(file.name).replace(folder / _IMPORT_FILE)


def open_dataset(folder: Path) -> Dataset:
    """Raises: StudioError where `folder` holds no whole data set."""
    imported = imported_set(folder)
    if imported is None:
        raise StudioError(f"{path_text(folder)} holds no imported data.", hint="Import the file again.")
    return Dataset(folder, imported)


def imported_set(folder: Path) -> ImportedSet | None:
    """What lies beside the rows; None where the folder is not there or not whole."""
    try:
        imported = msgspec.json.decode((folder / _IMPORT_FILE).read_bytes(), type=ImportedSet)
        size = (folder / ARROW_FILE).stat().st_size
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return imported if imported.schema_version == SCHEMA_VERSION and imported.arrow_bytes == size else None


def told_today(
    folder: Path, cached: ImportedSet, files: Sequence[RowFile], report: ImportReport
) -> ImportReport:
    """The rows are the same: note where their files lie now, and what is said of them now."""
    now = msgspec.structs.replace(cached, files=tuple(files), report=report)
    if now != cached:
        write_import(folder, now)
    return report


class Dataset:
    """Imported rows by index. The bytes stay on disk and are read as they are asked for."""

    def __init__(self, folder: Path, imported: ImportedSet) -> None:
        self.folder = folder
        self.report = imported.report
        self._files = imported.files
        self._names = [_file_name(file) for file in imported.files]
        memory = pa.memory_map(str(folder / ARROW_FILE), "rb")
        with pa.ipc.open_stream(memory) as stream:
            self._batches: list[Any] = list(stream)
        self._first_rows: list[int] = []
        rows = 0
        for batch in self._batches:
            self._first_rows.append(rows)
            rows += batch.num_rows
        self._rows = rows
        self._searched: tuple[str, list[int]] = ("", [])

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Row]:
        """All rows in order, without their source."""
        for first, batch in zip(self._first_rows, self._batches, strict=True):
            for start in range(0, batch.num_rows, 1000):
                part = batch.slice(start, 1000)
                yield from self._read(part, range(first + start, first + start + part.num_rows))

    def batches(self) -> Iterator[Any]:
        """All rows in order, as the record batches they lie in (`row_table.SCHEMA`)."""
        return iter(self._batches)

    def row(self, index: int, *, source: bool = False) -> Row:
        """With the text of its record in the file, where `source` asks for it. Raises: IndexError."""
        if not 0 <= index < self._rows:
            raise IndexError(f"row {index} of {self._rows}")
        (row,) = self._rows_at([index], source=source)
        return row

    def rows(self, start: int, count: int, *, source: bool = False) -> list[Row]:
        """At most `count` rows from `start`."""
        return self._rows_at(range(max(0, start), min(start + count, self._rows)), source=source)

    def search(self, text: str, start: int, count: int, *, source: bool = False) -> tuple[list[Row], int]:
        """At most `count` of the rows that hold `text`, from the `start`-th of them; and how many hold it.

        Upper and lower case are the same.
        """
        if not text:
            return self.rows(start, count, source=source), self._rows
        if self._searched[0] != text:
            self._searched = (text, self._find(text))
        found = self._searched[1]
        return self._rows_at(found[max(0, start) : start + count], source=source), len(found)

    def lines(self, rows: Sequence[int]) -> list[int]:
        """Line numbers of these rows."""
        return [self.row(index).line for index in rows]

    def _find(self, text: str) -> list[int]:
        found: list[int] = []
        for first, batch in zip(self._first_rows, self._batches, strict=True):
            hits = set(_rows_with(batch.column("text"), text))
            for messages in (batch.column("messages"), batch.column("rejected")):
                contents = messages.flatten().field("content")
                parents = pc.list_parent_indices(messages)
                hits.update(parents.take(pa.array(_rows_with(contents, text), pa.int64())).to_pylist())
            found.extend(first + row for row in sorted(hits))
        return found

    def _rows_at(self, indices: Sequence[int], *, source: bool) -> list[Row]:
        """These rows, read batch by batch: one by one they take ten times as long."""
        rows: list[Row] = []
        with ExitStack() as opened:
            texts = _SourceTexts(self.folder, self._files, opened)
            for at, group in groupby(indices, lambda index: bisect.bisect_right(self._first_rows, index) - 1):
                chosen = list(group)
                part = self._batches[at].take(pa.array([index - self._first_rows[at] for index in chosen]))
                found = self._read(part, chosen)
                if source:
                    places = (part.column(name).to_pylist() for name in ("file", "offset", "bytes"))
                    with_source = zip(found, *places, strict=True)
                    found = (
                        msgspec.structs.replace(row, source=texts.of(*place)) for row, *place in with_source
                    )
                rows += found
        return rows

    def _read(self, batch: Any, rows: Sequence[int]) -> Iterator[Row]:
        """rows: the indices of those in `batch`."""
        lines = batch.column("line").to_pylist()
        files = batch.column("file").to_pylist()
        tools = batch.column("tools").to_pylist()
        texts = batch.column("text").to_pylist()
        for index, (messages, rejected, label) in enumerate(chats_of(batch)):
            yield Row(
                row=rows[index],
                line=lines[index],
                file=self._names[files[index]] if len(self._files) > 1 else "",
                messages=messages,
                rejected=rejected,
                label=label,
                tools=tools[index] or "",
                text=texts[index],
            )


class _SourceTexts:
    """Records as they stand in the files that rows came from; each file is opened once."""

    def __init__(self, folder: Path, files: Sequence[RowFile], opened: ExitStack) -> None:
        self._folder = folder
        self._files = files
        self._opened = opened
        self._sources: dict[int, SourceFile | None] = {}

    def of(self, file: int, offset: int, size: int) -> str | None:
        """At most 10,000 characters; None where the file has changed, or nothing of it is kept there."""
        if offset < 0:
            return None
        try:
            if file not in self._sources:
                self._sources[file] = None  # it stays so where the file can't be opened
                self._sources[file] = self._open(self._files[file])
            source = self._sources[file]
            if source is None or offset + size > source.size:
                return None  # only the beginning of a file that had to be turned is kept
            text = source.read(offset, min(size, 4 * SHOWN_CHARACTERS))  # of UTF-8: at most 4 a character
        except StudioError:
            return None
        shown = text.decode("utf-8", "ignore")  # a character cut at the end is dropped
        return shown[:SHOWN_CHARACTERS].rstrip("\r\n")

    def _open(self, origin: RowFile) -> SourceFile | None:
        path = self._folder / origin.copy if origin.copy else Path(os.fsdecode(origin.path))
        source = self._opened.enter_context(SourceFile(path))
        if not origin.copy and (source.size, source.modified_ns) != (origin.size, origin.modified_ns):
            return None  # changed since: what stands there now is something else
        return source


def _file_name(file: RowFile) -> str:
    return path_text(Path(Path(os.fsdecode(file.path)).name))


def _rows_with(column: Any, text: str) -> list[int]:
    hits = pc.match_substring(column, text, ignore_case=True)
    found: list[int] = pc.indices_nonzero(hits).to_pylist()
    return found
