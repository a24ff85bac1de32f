"""Lines of JSON as Arrow reads them, many at once, where it reads them as strictly as we do (D7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from numpy.typing import NDArray

from qlora_studio.data.limits import MAX_COLUMNS, MAX_DEPTH, MAX_ROW_BYTES

_OPEN, _CLOSE, _LINE_FEED, _RETURN = b"{}\n\r"
_LOOKED_THROUGH = 1 << 18  # bytes
_MANY_BRACKETS = 1_000  # in one line: Arrow's stack doesn't bear any depth


@dataclass(frozen=True)
class PlainLines:
    """n lines that each begin and end as an object does.

    offsets: int64 [n], of the lines in the block, in bytes
    sizes:   int64 [n], with the line's end
    """

    block: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def any_with_many_brackets(self) -> bool:
        """Whether a line could be nested too deeply for Arrow."""
        opening = (self.block | 0x20) == _OPEN  # [ and { differ in that bit only
        counts = np.add.reduceat(opening, self.offsets, dtype=np.int64)
        return bool(counts.max() > _MANY_BRACKETS)


class PlainTables:
    """Reads the blocks of one file, on several threads. It remembers which columns the last ones had."""

    def __init__(self, schema: Any) -> None:
        """Columns beside those of `schema` may be there or not."""
        self._asked = schema
        self._known = schema

    def read(self, block: bytes) -> tuple[PlainLines, Any] | None:
        """The lines of `block` and a table with a row for each; None where they must be read one by one."""
        lines = _lines(block)
        table = self._table(block, lines) if lines else None
        if not lines or table is None or table.num_rows != len(lines.offsets) or not _is_strict(table):
            return None
        return lines, table

    def _table(self, block: bytes, lines: PlainLines) -> Any | None:
        known = self._known
        try:
            return _read(block, known)
        except pa.ArrowInvalid as error:
            others = "unexpected field" in str(error) or known is not self._asked
            if not others or lines.any_with_many_brackets():
                return None
        try:
            found = _with_other_columns(block, self._asked)
            table = _read(block, found)
        except pa.ArrowInvalid:
            return None
        self._known = found
        return table


def _lines(block: bytes) -> PlainLines | None:
    """None where a line doesn't begin and end as an object does, or is too long."""
    bytes_ = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(bytes_ == _LINE_FEED) + 1
    if not len(ends) or ends[-1] != len(block):
        ends = np.append(ends, len(block))
    offsets = np.concatenate(([0], ends[:-1]))
    sizes = ends - offsets
    if sizes.max() > MAX_ROW_BYTES or sizes.min() < 4:
        return None
    last = ends - 1 - (bytes_[ends - 1] == _LINE_FEED)
    if _RETURN in block:
        last -= bytes_[last] == _RETURN
        if block.count(b"\r") != np.count_nonzero(bytes_[np.minimum(last + 1, len(block) - 1)] == _RETURN):
            return None  # some stand within lines: they end lines too
    if not ((bytes_[offsets] == _OPEN).all() and (bytes_[last] == _CLOSE).all()):
        return None
    return PlainLines(bytes_, offsets, sizes)


def _read(block: bytes, schema: Any, others: str = "error") -> Any:
    table = pj.read_json(
        pa.BufferReader(block),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
    )
    table.validate(full=True)  # UTF-8 too
    return table


def _with_other_columns(block: bytes, schema: Any) -> Any:
    """`schema` with the columns that the first lines have beside it, which are then checked as strictly.

    Arrow may look for new columns in few lines only: each of a thousand thousand names would cost memory.
    """
    first = block if len(block) <= _LOOKED_THROUGH else block[: block.rfind(b"\n", 0, _LOOKED_THROUGH) + 1]
    found = _read(first, schema, "infer").schema
    others = [pa.field(field.name, _general(field.type)) for field in found if field.name not in schema.names]
    return pa.schema([*(found.field(name) for name in schema.names), *others])


def _general(kind: Any) -> Any:
    """A type that takes what other rows may have in the same column."""
    if pa.types.is_integer(kind):
        return pa.float64()
    if pa.types.is_temporal(kind):
        return pa.string()  # Arrow takes some texts for times
    if pa.types.is_list(kind):
        return pa.list_(_general(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _general(field.type)) for field in kind])
    return kind


def _is_strict(table: Any) -> bool:
    """Arrow takes NaN and Infinity for numbers, and any depth and number of columns."""
    return table.num_columns <= MAX_COLUMNS and all(
        _depth(column.type) < MAX_DEPTH and _is_finite(chunk)
        for column in table.columns
        for chunk in column.chunks
    )


def _depth(kind: Any) -> int:
    children = [kind.field(index).type for index in range(kind.num_fields)]
    return 1 + max(map(_depth, children)) if children else 0


def _is_finite(values: Any) -> bool:
    if pa.types.is_floating(values.type):
        return bool(pc.all(pc.is_finite(values), min_count=0).as_py())
    if pa.types.is_list(values.type):
        return _is_finite(values.values)
    if pa.types.is_struct(values.type):
        return all(_is_finite(values.field(index)) for index in range(values.type.num_fields))
    return True
