"""Records of files that store columns: strings, numbers, lists and structs of them, nothing else (D10).

Writers that mark no column as text, as Spark did, store strings as bytes: a column of bytes is read too where
most of its first values are UTF-8. Other bytes, as of pictures, are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qlora_studio.data.limits import MAX_COLUMNS, MAX_EXPANSION
from qlora_studio.data.record import Place, Record, named
from qlora_studio.data.source_file import SourceFile
from qlora_studio.errors import StudioError

ROWS_LOOKED_AT = 4  # for text stored as bytes; they may be pictures
ROWS_AT_ONCE = 64  # a dictionary can make rows far larger than their file: few at a time
_MUCH_AT_ONCE = 1 << 25  # bytes of rows: then one row at a time
_SMALL_BYTES = 1_000_000  # a file of less than that can't fill much

BROKEN = (pa.ArrowException, OSError, ValueError)  # what pyarrow raises where a file is no good


def byte_columns(schema: Any) -> list[str]:
    """Those that may hold text which nothing calls so, be it within lists and structs."""
    return [
        field.name for field in schema if _readable(field.type, or_bytes=True) and not _readable(field.type)
    ]


def readable_columns(schema: Any, source: SourceFile, first: Any = None) -> tuple[str, ...]:
    """Names of the columns that are read. first: a batch, the first rows of `byte_columns`; None: no rows.

    Raises: StudioError where there are none, or too many.
    """
    if len(schema) > MAX_COLUMNS:
        raise StudioError(f"{source.name} has {len(schema):,} columns; at most {MAX_COLUMNS} are read.")
    texts = (
        [] if first is None else [name for name in byte_columns(schema) if _holds_text(first.column(name))]
    )
    columns = tuple(field.name for field in schema if _readable(field.type) or field.name in texts)
    if not columns:
        raise StudioError(f"{source.name} has no column with text, numbers, lists or structs.")
    doubled = {name for name in columns if columns.count(name) > 1}
    if doubled:
        raise StudioError(f"{source.name}: the column {named(min(doubled))} stands there twice.")
    return columns


def broken(kind: str, source: SourceFile, error: Exception) -> StudioError:
    """What a person is told about such a file."""
    lines = str(error).splitlines() or [type(error).__name__]
    return StudioError(f"{source.name} is broken {kind}: {lines[0][:200]}", hint="Copy or download it again.")


def records_of(batches: Iterable[Any], source: SourceFile) -> Iterator[Record]:
    """A record a row; its line is its number from 1. Raises: StudioError where they are far too many."""
    line = size = 0
    for batch in batches:
        expanded = sum(map(_expanded_bytes, batch.columns))
        size += expanded
        if size > MAX_EXPANSION * max(source.size, _SMALL_BYTES):
            raise StudioError(
                f"{source.name} holds more than {MAX_EXPANSION} times its size in text.",
                hint="It may be made to fill the disk; its rows are not read.",
            )
        of_bytes = byte_columns(batch.schema)
        step = len(batch) if expanded < _MUCH_AT_ONCE else 1
        for start in range(0, len(batch), step):
            for value in batch.slice(start, step).to_pylist():
                line += 1
                for name in of_bytes:
                    value[name] = _text_in(value[name])
                yield Record(value, Place(line))


def _holds_text(column: Any) -> bool:
    values = [_text_in(value) for value in column.to_pylist() if value]
    return not values or sum(not _holds_bytes(value) for value in values) * 2 > len(values)


def _text_in(value: Any) -> Any:
    """The value with text in place of bytes that are UTF-8."""
    if isinstance(value, dict):
        return {name: _text_in(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_text_in(item) for item in value]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_bytes, value.values()))
    return any(map(_holds_bytes, value)) if isinstance(value, list) else isinstance(value, bytes)


def _expanded_bytes(array: Any) -> int:
    """About what its values take, each text counted as often as it is named."""
    types, kind = pa.types, array.type
    if types.is_struct(kind):
        return sum(map(_expanded_bytes, array.flatten()))
    if _is_list(kind):
        return _expanded_bytes(array.flatten())
    if types.is_dictionary(kind) and _is_text(kind.value_type):
        return pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0
    if types.is_string_view(kind):
        views = np.frombuffer(array.buffers()[1], dtype=np.int32).reshape(-1, 4)  # its length comes first
        return int(views[array.offset : array.offset + len(array), 0].sum(dtype=np.int64))
    bytes_: int = array.nbytes
    return bytes_


def _readable(kind: Any, or_bytes: bool = False) -> bool:
    types = pa.types
    if types.is_struct(kind):
        return all(_readable(field.type, or_bytes) for field in kind)
    if _is_list(kind):
        return _readable(kind.value_type, or_bytes)
    if types.is_dictionary(kind):
        return _is_text(kind.value_type) or _is_number(kind.value_type)
    if isinstance(kind, pa.JsonType):
        return True  # text, as DuckDB stores columns of JSON
    if or_bytes and (types.is_binary(kind) or types.is_large_binary(kind)):
        return True
    return _is_text(kind) or _is_number(kind) or types.is_string_view(kind) or types.is_null(kind)


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
