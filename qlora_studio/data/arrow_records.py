"""The records of an Arrow file: as `datasets` saves them, a stream, or a file with an index at its end."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from mmap import mmap
from typing import Any

import pyarrow as pa

from qlora_studio.data.column_records import (
    BROKEN,
    ROWS_AT_ONCE,
    ROWS_LOOKED_AT,
    broken,
    byte_columns,
    readable_columns,
    records_of,
)
from qlora_studio.data.container import begins_as_json
from qlora_studio.data.record import Record
from qlora_studio.data.source_file import SourceFile
from qlora_studio.errors import StudioError

_FILE_MAGIC = b"ARROW1\x00\x00"
_MESSAGE = b"\xff\xff\xff\xff"  # every message of a stream begins with it
_END = _MESSAGE + bytes(4)  # a message without content
_SCHEMA_BYTES = 1 << 24


def is_arrow(source: SourceFile) -> bool:
    """Whether it begins as Arrow does. Raises: StudioError where only its name says so."""
    head = source.read(0, 8)
    in_stream = head[:4] == _MESSAGE and 0 < int.from_bytes(head[4:], "little") < _SCHEMA_BYTES
    begins = head == _FILE_MAGIC or in_stream
    if source.size and not begins and source.path.suffix.lower() == ".arrow" and not begins_as_json(source):
        raise StudioError(
            f"{source.name} is not Arrow, though its name says so.", hint="Copy or download it again."
        )
    return begins


class ArrowRows:
    """An open Arrow file. Raises: StudioError where it is broken."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._file = source.mapped()
        self._reader = pa.BufferReader(pa.py_buffer(self._file))
        self._start, self._end = _stream_in(self._file, source)
        try:
            schema = self._open().schema
            of_bytes = byte_columns(schema)
            first = next(self._batches(of_bytes), None) if of_bytes else None
            self.columns = readable_columns(schema, source, first and first.slice(0, ROWS_LOOKED_AT))
        except BROKEN as error:
            raise broken("Arrow", source, error) from error

    def done(self, line: int) -> int:
        """About how many bytes of the file were read when this row was."""
        return int(self._reader.tell())

    def records(self, columns: Collection[str] | None = None) -> Iterator[Record]:
        """A record a row, with these columns of it."""
        wanted = [name for name in self.columns if columns is None or name in columns]
        try:
            yield from records_of(self._batches(wanted), self._source)
        except BROKEN as error:
            raise broken("Arrow", self._source, error) from error

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        for batch in self._open():
            chosen = batch.select(columns)
            chosen.validate(full=True)  # it says by foreign numbers where each text begins and ends
            for start in range(0, chosen.num_rows, ROWS_AT_ONCE):
                yield chosen.slice(start, ROWS_AT_ONCE)
        if self._reader.tell() != self._end:
            raise ValueError("something follows the end of its stream")

    def _open(self) -> Any:
        self._reader.seek(self._start)
        return pa.ipc.open_stream(self._reader)


def _stream_in(file: mmap, source: SourceFile) -> tuple[int, int]:
    """Where the stream begins and ends: a file with an index has one inside."""
    size = len(file)
    start, end = 0, size
    if file[:8] == _FILE_MAGIC:
        index_bytes = int.from_bytes(file[size - 10 : size - 6], "little")
        start, end = len(_FILE_MAGIC), size - 10 - index_bytes
    if (start and file[-6:] != _FILE_MAGIC[:6]) or file[max(0, end - 8) : end] != _END:
        raise StudioError(
            f"{source.name} begins as Arrow but is cut off: its end is missing.",
            hint="Copy or download it again.",
        )
    return start, end
