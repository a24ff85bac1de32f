"""Imported rows on disk: written once, read by index; `datasets.load_from_disk` opens them too."""

from __future__ import annotations

import bisect
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from qlora_studio.data.conversation import Message, Row, ToolCall
from qlora_studio.data.limits import SHOWN_CHARACTERS
from qlora_studio.data.path_text import path_text
from qlora_studio.data.record import Conversation, Place
from qlora_studio.data.report import ImportReport
from qlora_studio.errors import StudioError

SCHEMA_VERSION = 1

_ARROW_FILE = "data-00000-of-00001.arrow"
_IMPORT_FILE = "import.json"
_BATCH_CHARACTERS = 8_000_000
_BATCH_ROWS = 20_000

_MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("loss_weight", pa.float64()),
        ("name", pa.string()),
        ("tool_calls", pa.string()),  # JSON: a list of name, arguments (JSON text) and id
        ("tool_call_id", pa.string()),
        ("reasoning", pa.string()),
    ]
)
_SCHEMA = pa.schema(
    [
        ("line", pa.int64()),
        ("file", pa.int16()),
        ("offset", pa.int64()),  # of the record in that file, as UTF-8; -1: there is no text to show
        ("bytes", pa.int64()),
        ("messages", pa.list_(_MESSAGE)),
        ("tools", pa.string()),
        ("text", pa.string()),
    ]
)


class RowFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that rows came from. `copy`: its text in the data set's folder, where the file isn't UTF-8."""

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


class RowsWriter:
    """Collects rows and writes them in batches of some megabytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = pa.OSFile(str(folder / _ARROW_FILE), "wb")
        self._writer = pa.ipc.new_stream(self._file, _SCHEMA)
        self.rows = 0
        self._new_batch()

    def add(self, conversation: Conversation, place: Place, file: int) -> None:
        """The next row."""
        self._lines.append(place.line)
        self._files.append(file)
        self._at.append(place.offset)
        self._bytes.append(place.size)
        self._tools.append(conversation.tools or None)
        self._texts.append(conversation.text)
        for message in conversation.messages:
            self._messages.append(message)
            self._characters += len(message.content)
        self._ends.append(len(self._messages))
        self._characters += len(conversation.text or "")
        self.rows += 1
        if self._characters > _BATCH_CHARACTERS or len(self._lines) >= _BATCH_ROWS:
            self._write_batch()

    def finish(self, files: Sequence[RowFile], report: ImportReport) -> None:
        """Write what is left, and say that the data set is whole."""
        self._write_batch()
        self._writer.close()
        self._file.close()
        _write_words_for_datasets(self._folder)
        imported = ImportedSet(
            rows=self.rows,
            arrow_bytes=(self._folder / _ARROW_FILE).stat().st_size,
            files=tuple(files),
            report=report,
        )
        _write_whole(self._folder / _IMPORT_FILE, imported)

    def _new_batch(self) -> None:
        self._lines: list[int] = []
        self._files: list[int] = []
        self._at: list[int] = []
        self._bytes: list[int] = []
        self._ends: list[int] = [0]
        self._messages: list[Message] = []
        self._tools: list[str | None] = []
        self._texts: list[str | None] = []
        self._characters = 0

    def _write_batch(self) -> None:
        if not self._lines:
            return
        messages = pa.ListArray.from_arrays(pa.array(self._ends, pa.int32()), _message_column(self._messages))
        self._writer.write_batch(
            pa.record_batch(
                [
                    pa.array(self._lines, pa.int64()),
                    pa.array(self._files, pa.int16()),
                    pa.array(self._at, pa.int64()),
                    pa.array(self._bytes, pa.int64()),
                    messages,
                    pa.array(self._tools, pa.string()),
                    pa.array(self._texts, pa.string()),
                ],
                schema=_SCHEMA,
            )
        )
        self._new_batch()


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
        size = (folder / _ARROW_FILE).stat().st_size
    except (OSError, msgspec.MsgspecError):
        return None
    return imported if imported.schema_version == SCHEMA_VERSION and imported.arrow_bytes == size else None


def move_files(
    folder: Path, imported: ImportedSet, files: Sequence[RowFile], shown_path: str
) -> ImportReport:
    """The same bytes may lie elsewhere now: note where, so that a row's source is found."""
    moved = tuple(
        msgspec.structs.replace(new, copy=old.copy) for new, old in zip(files, imported.files, strict=True)
    )
    report = msgspec.structs.replace(imported.report, path=shown_path)
    if moved != imported.files or report != imported.report:
        _write_whole(folder / _IMPORT_FILE, msgspec.structs.replace(imported, files=moved, report=report))
    return report


class Dataset:
    """Imported rows by index. The bytes stay on disk and are read as they are asked for."""

    def __init__(self, folder: Path, imported: ImportedSet) -> None:
        self.folder = folder
        self.report = imported.report
        self._files = imported.files
        memory = pa.memory_map(str(folder / _ARROW_FILE), "rb")
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
                yield from self._read(batch.slice(start, 1000), first + start)

    def row(self, index: int, *, source: bool = False) -> Row:
        """With the text of its record in the file, where `source` asks for it. Raises: IndexError."""
        if not 0 <= index < self._rows:
            raise IndexError(f"row {index} of {self._rows}")
        at = bisect.bisect_right(self._first_rows, index) - 1
        batch = self._batches[at].slice(index - self._first_rows[at], 1)
        (row,) = self._read(batch, index)
        return msgspec.structs.replace(row, source=self._source(batch)) if source else row

    def rows(self, start: int, count: int, *, source: bool = False) -> list[Row]:
        """At most `count` rows from `start`."""
        return [
            self.row(index, source=source) for index in range(max(0, start), min(start + count, self._rows))
        ]

    def search(self, text: str, start: int, count: int, *, source: bool = False) -> tuple[list[Row], int]:
        """At most `count` of the rows that hold `text`, from the `start`-th of them; and how many hold it.

        Upper and lower case are the same.
        """
        if not text:
            return self.rows(start, count, source=source), self._rows
        if self._searched[0] != text:
            self._searched = (text, self._find(text))
        found = self._searched[1]
        return [self.row(index, source=source) for index in found[max(0, start) : start + count]], len(found)

    def lines(self, rows: Sequence[int]) -> list[int]:
        """Line numbers of these rows."""
        return [self.row(index).line for index in rows]

    def _find(self, text: str) -> list[int]:
        found: list[int] = []
        for first, batch in zip(self._first_rows, self._batches, strict=True):
            hits = set(_rows_with(batch.column("text"), text))
            messages = batch.column("messages")
            contents = messages.flatten().field("content")
            parents = pc.list_parent_indices(messages)
            hits.update(parents.take(pa.array(_rows_with(contents, text), pa.int64())).to_pylist())
            found.extend(first + row for row in sorted(hits))
        return found

    def _read(self, batch: Any, first: int) -> Iterator[Row]:
        lines = batch.column("line").to_pylist()
        files = batch.column("file").to_pylist()
        tools = batch.column("tools").to_pylist()
        texts = batch.column("text").to_pylist()
        names = [_file_name(file) for file in self._files]
        chats = _messages_of(batch.column("messages"))
        for index, messages in enumerate(chats):
            yield Row(
                row=first + index,
                line=lines[index],
                file=names[files[index]] if len(self._files) > 1 else "",
                messages=messages,
                tools=tools[index] or "",
                text=texts[index],
            )

    def _source(self, batch: Any) -> str | None:
        offset = batch.column("offset")[0].as_py()
        if offset < 0:
            return None
        origin = self._files[batch.column("file")[0].as_py()]
        path = self.folder / origin.copy if origin.copy else Path(os.fsdecode(origin.path))
        size = min(batch.column("bytes")[0].as_py(), 4 * SHOWN_CHARACTERS)  # of UTF-8: at most 4 a character
        try:
            status = path.stat()
            if not origin.copy and (status.st_size, status.st_mtime_ns) != (origin.size, origin.modified_ns):
                return None  # changed since: what stands there now is something else
            with path.open("rb") as file:
                file.seek(offset)
                text = file.read(size)
        except OSError:
            return None
        shown = text.decode("utf-8", "ignore")  # a character cut at the end is dropped
        return shown[:SHOWN_CHARACTERS].rstrip("\r\n")


def _file_name(file: RowFile) -> str:
    return path_text(Path(Path(os.fsdecode(file.path)).name))


def _write_whole(path: Path, imported: ImportedSet) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(msgspec.json.encode(imported))
    Path(file.name).replace(path)


def _message_column(messages: list[Message]) -> Any:
    count = len(messages)

    def optional(values: list[Any], kind: Any) -> Any:
        return pa.array(values, kind) if any(value is not None for value in values) else pa.nulls(count, kind)

    return pa.StructArray.from_arrays(
        [
            pa.array([message.role for message in messages], pa.string()),
            pa.array([message.content for message in messages], pa.string()),
            optional([message.loss_weight for message in messages], pa.float64()),
            optional([message.name or None for message in messages], pa.string()),
            optional([_calls_text(message.tool_calls) for message in messages], pa.string()),
            optional([message.tool_call_id or None for message in messages], pa.string()),
            optional([message.reasoning or None for message in messages], pa.string()),
        ],
        fields=list(_MESSAGE),
    )


def _calls_text(calls: tuple[ToolCall, ...]) -> str | None:
    return msgspec.json.encode(calls).decode("utf-8") if calls else None


def _messages_of(column: Any) -> Iterator[tuple[Message, ...]]:
    flat = column.flatten()
    values = [flat.field(index).to_pylist() for index in range(flat.type.num_fields)]
    messages = [
        Message(
            role,
            content,
            loss_weight,
            name or "",
            msgspec.json.decode(calls, type=tuple[ToolCall, ...]) if calls else (),
            call_id or "",
            reasoning or "",
        )
        for role, content, loss_weight, name, calls, call_id, reasoning in zip(*values, strict=True)
    ]
    at = 0
    for length in column.value_lengths().to_pylist():
        yield tuple(messages[at : at + length])
        at += length


def _rows_with(column: Any, text: str) -> list[int]:
    hits = pc.match_substring(column, text, ignore_case=True)
    found: list[int] = pc.indices_nonzero(hits).to_pylist()
    return found


def _write_words_for_datasets(folder: Path) -> None:
    """The two small files that `datasets.load_from_disk` wants beside the rows."""
    state: dict[str, object] = {
        "_data_files": [{"filename": _ARROW_FILE}],
        "_fingerprint": folder.name,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state), "utf-8")
    (folder / "dataset_info.json").write_text("{}", "utf-8")
