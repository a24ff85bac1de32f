"""The records of a Parquet file."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow.parquet as pq

from qlora_studio.data.column_records import BROKEN, ROWS_AT_ONCE, broken, readable_columns, records_of
from qlora_studio.data.record import Record
from qlora_studio.data.source_file import SourceFile


class ParquetRows:
    """An open Parquet file. Raises: StudioError where it is broken."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        try:
            self._file = pq.ParquetFile(source.as_stream())
            self.columns = readable_columns(self._file.schema_arrow, source)
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
            batches = self._file.iter_batches(ROWS_AT_ONCE, columns=wanted, use_threads=False)
            yield from records_of(batches, self._source)
        except BROKEN as error:
            raise broken("Parquet", self._source, error) from error
