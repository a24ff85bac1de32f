"""The records of a Parquet file: strings, numbers, lists and structs of them, nothing else (D10)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qlora_studio.data.limits import MAX_COLUMNS, MAX_EXPANSION
from qlora_studio.data.record import Place, Record
from qlora_studio.data.source_file import SourceFile
from qlora_studio.errors import StudioError

_SMALL_BYTES = 1_000_000  # a file of less than that can't fill much
_BATCH_ROWS = 64  # a dictionary can make rows far larger than their file: few at a time


class ParquetRows:
    """An open Parquet file. Raises: StudioError where it is broken."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        try:
            self._file = pq.ParquetFile(source.as_stream())
            schema = self._file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from error
        if len(schema) > MAX_COLUMNS:
            raise StudioError(f"{source.name} has {len(schema):,} columns; at most {MAX_COLUMNS} are read.")
        self.rows: int = self._file.metadata.num_rows
        self.columns = tuple(field.name for field in schema if _readable(field.type))
        if not self.columns:
            raise StudioError(f"{source.name} has no column with text, numbers, lists or structs.")

    def records(self, columns: Collection[str] | None = None) -> Iterator[Record]:
        """A record a row, with these columns of it; its line is its number from 1."""
        line = size = 0
        wanted = [name for name in self.columns if columns is None or name in columns]
        try:
            for batch in self._file.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
                size += batch.nbytes
                if size > MAX_EXPANSION * max(self._source.size, _SMALL_BYTES):
                    raise StudioError(
                        f"{self._source.name} holds more than {MAX_EXPANSION} times its size in text.",
                        hint="It may be made to fill the disk; its rows are not read.",
                    )
                for value in batch.to_pylist():
                    line += 1
                    yield Record(value, Place(line))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> StudioError:
        return StudioError(
            f"{self._source.name} is broken Parquet: {str(error).splitlines()[0][:200]}",
            hint="Copy or download it again.",
        )


def _readable(kind: Any) -> bool:
    types = pa.types
    if types.is_struct(kind):
        return all(_readable(field.type) for field in kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _readable(kind.value_type)
    if types.is_dictionary(kind):
        return _readable(kind.value_type)
    return any(
        of(kind)
        for of in (
            types.is_string,
            types.is_large_string,
            types.is_string_view,
            types.is_integer,
            types.is_floating,
            types.is_boolean,
            types.is_null,
        )
    )
