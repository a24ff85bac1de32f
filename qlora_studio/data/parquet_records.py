"""The records of a Parquet file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow.parquet as pq

from qlora_studio.data.column_records import (
    BROKEN,
    ROWS_AT_ONCE,
    ROWS_LOOKED_AT,
    broken,
    byte_columns,
    readable_columns,
    records_of,
)
from qlora_studio.data.record import Record
from qlora_studio.data.source_file import SourceFile


class ParquetRows:
    """An open Parquet file. Raises: StudioError where it is broken."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        try:
            self._file = pq.ParquetFile(source.as_stream())
            schema = self._file.schema_arrow
            of_bytes = byte_columns(schema)
            first = next(self._batches(of_bytes, ROWS_LOOKED_AT), None) if of_bytes else None
            self.columns = readable_columns(schema, source, first)
        except BROKEN as error:
            raise broken("Parquet", source, error) from error

    def done(self, line: int) -> int:
        """About how many bytes of the file were read when this row was."""
        rows: int = self._file.metadata.num_rows
        return self._source.size * line // max(1, rows)

    def records(self, columns: Collection[str] | None = None) -> Iterator[Record]:
        """A record a row, with these columns of it."""
        wanted = [name for name in self.columns if columns is None or name in columns]
        try:
            yield from records_of(self._batches(wanted), self._source)
        except BROKEN as error:
            raise broken("Parquet", self._source, error) from error

    def _batches(self, columns: list[str], rows: int = ROWS_AT_ONCE) -> Iterator[Any]:
        batches: Iterator[Any] = self._file.iter_batches(rows, columns=columns, use_threads=False)
        return batches
