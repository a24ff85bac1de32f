"""Chats of the usual shape, many lines at once: Arrow reads them, and whole columns are checked together.

Only what the slower way (`file_records.py`, `chats.py`) would import unchanged counts as plain; a test holds
the two against each other. What isn't plain is left to that way, line by line, with its reasons and notes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import xxhash
from numpy.typing import NDArray

from qlora_studio.data.chats import ROLE_OF
from qlora_studio.data.formats import Layout
from qlora_studio.data.limits import MAX_COLUMNS, MAX_DEPTH, MAX_ROW_BYTES
from qlora_studio.data.row_digest import ROLE_CODES, seeds_of

_KEYS = {"messages": ("role", "content"), "sharegpt": ("from", "value")}
_SYSTEM, _USER, _ASSISTANT = (ROLE_CODES[role] for role in ("system", "user", "assistant"))
_OPEN, _CLOSE, _LINE_FEED, _RETURN = b"{}\n\r"
_MANY_BRACKETS = 1_000  # in one line: Arrow's stack doesn't bear any depth
_WORTH_IT = 0.9  # share of plain rows; below it the slower way is as fast
_BLANK_BEGINNINGS = np.isin(np.arange(256), [*range(33), 0xC2, 0xE1, 0xE2, 0xE3])  # of blank texts in UTF-8


@dataclass(frozen=True)
class PlainChats:
    """n lines, m of them plain.

    plain:   bool [n]
    offsets: int64 [n], of the lines in the block, in bytes
    sizes:   int64 [n], with the line's end
    roles, contents: of all messages of the plain rows; starts: int32 [m + 1], of each row's
    digests: of the plain rows, as `digest_of` gives them
    aliased: bool [m], rows whose roles had other names
    """

    plain: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    roles: Any
    contents: Any
    starts: NDArray[np.int32]
    digests: list[bytes]
    aliased: NDArray[np.bool_]


def is_of_chats(layout: Layout) -> bool:
    """Whether chats of this layout can be plain."""
    return layout.format in _KEYS


def plain_chats(block: bytes, layout: Layout) -> PlainChats | None:
    """`block` holds whole lines; None where too few of them are plain."""
    lines = _lines(block)
    table = _table(block, layout, lines) if lines else None
    if not lines or table is None or table.num_rows != len(lines.offsets):
        return None
    chats = table.column(layout.map["messages"]).combine_chunks()
    turns = _Turns.of(chats)
    if turns is None:
        return None
    plain = turns.rows_in_order() & ~turns.rows_with(turns.blank())
    for name in ("system", "tools"):
        if name in layout.map and layout.map[name] in table.column_names:
            plain &= _as_numpy(table.column(layout.map[name]).combine_chunks().is_null())
    if plain.mean() < _WORTH_IT:
        return None
    aliased = turns.rows_with(turns.aliased)[plain]
    if not plain.all():
        turns = _Turns.of(chats.filter(pa.array(plain)))
        assert turns is not None
    return PlainChats(
        plain=plain,
        offsets=lines.offsets,
        sizes=lines.sizes,
        roles=turns.known_roles(),
        contents=turns.contents,
        starts=turns.starts,
        digests=turns.digests(),
        aliased=aliased,
    )


@dataclass(frozen=True)
class _Lines:
    block: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def any_with_many_brackets(self) -> bool:
        """Whether a line could be nested too deeply for Arrow."""
        opening = (self.block | 0x20) == _OPEN  # [ and { differ in that bit only
        counts = np.add.reduceat(opening, self.offsets, dtype=np.int64)
        return bool(counts.max() > _MANY_BRACKETS)


def _lines(block: bytes) -> _Lines | None:
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
    return _Lines(bytes_, offsets, sizes)


def _table(block: bytes, layout: Layout, lines: _Lines) -> Any | None:
    """None where Arrow finds an error, or reads what isn't strict JSON."""
    turn = pa.struct([(key, pa.string()) for key in _KEYS[layout.format]])
    schema = pa.schema([(layout.map["messages"], pa.list_(turn))])
    table = None
    for others in ("error", "infer"):
        if others == "infer" and lines.any_with_many_brackets():
            return None
        try:
            table = pj.read_json(
                pa.BufferReader(block),
                read_options=pj.ReadOptions(use_threads=False, block_size=len(block) + 1),
                parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
            )
            table.validate(full=True)  # UTF-8 too
        except pa.ArrowInvalid as error:
            if others == "error" and "unexpected field" in str(error):
                continue
            return None
        break
    return table if table is not None and _is_strict(table) else None


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


@dataclass(frozen=True)
class _Turns:
    """All messages of all rows, one row behind the other."""

    starts: NDArray[np.int32]  # [rows + 1]
    roles: Any  # dictionary-encoded, as spelled
    contents: Any
    codes: NDArray[np.int64]  # ROLE_CODES; 0: a role that isn't plain
    aliased: NDArray[np.bool_]

    @classmethod
    def of(cls, chats: Any) -> _Turns | None:
        """None where turns have more than role and content."""
        turns = chats.flatten()
        if turns.null_count or any(
            turns.field(index).null_count < len(turns) for index in range(2, turns.type.num_fields)
        ):
            return None
        roles = turns.field(0).dictionary_encode()
        spellings = roles.dictionary.to_pylist()
        known = [ROLE_OF.get(spelling, "") for spelling in spellings]
        codes = np.array([ROLE_CODES.get(role, 0) for role in known] + [0], dtype=np.int64)
        codes[codes == ROLE_CODES["tool"]] = 0
        other = np.array(
            [role != spelling for role, spelling in zip(known, spellings, strict=True)] + [False]
        )
        indices = roles.indices.fill_null(len(spellings)).to_numpy(zero_copy_only=False)
        lengths = chats.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int32)
        return cls(starts, roles, turns.field(1), codes[indices], other[indices])

    def rows_with(self, turns: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows of which at least one turn is true."""
        before = np.concatenate(([0], np.cumsum(turns)))
        with_it: NDArray[np.bool_] = before[self.starts[1:]] > before[self.starts[:-1]]
        return with_it

    def rows_in_order(self) -> NDArray[np.bool_]:
        """System first if at all, then user and assistant in turn; the last one is an assistant's."""
        if not len(self.codes):
            return np.zeros(len(self.starts) - 1, dtype=np.bool_)
        filled = self.starts[1:] > self.starts[:-1]
        first = np.zeros(len(self.codes), dtype=np.bool_)
        first[self.starts[:-1][filled]] = True
        before = np.concatenate(([0], self.codes[:-1]))
        before[first] = 0
        follows = np.where(
            self.codes == _SYSTEM,
            before == 0,
            np.where(
                self.codes == _USER,
                (before == 0) | (before == _SYSTEM) | (before == _ASSISTANT),
                (self.codes == _ASSISTANT) & (before == _USER),
            ),
        )
        last = np.zeros(len(filled), dtype=np.int64)
        last[filled] = self.codes[self.starts[1:][filled] - 1]
        in_order: NDArray[np.bool_] = ~self.rows_with(~follows) & (last == _ASSISTANT)
        return in_order

    def blank(self) -> NDArray[np.bool_]:
        """Turns without content, or with blanks only."""
        offsets, text = self._content_bytes()
        empty = np.diff(offsets) == 0
        blank: NDArray[np.bool_] = empty | _as_numpy(self.contents.is_null())
        beginnings = np.frombuffer(text, dtype=np.uint8)[offsets[:-1][~empty]]
        suspects = np.flatnonzero(~empty)[_BLANK_BEGINNINGS[beginnings]]
        for index in suspects.tolist():
            start, end = int(offsets[index]), int(offsets[index + 1])
            blank[index] |= not str(text[start:end], "utf-8").strip()
        return blank

    def known_roles(self) -> Any:
        """As text, the aliases mapped."""
        if not self.aliased.any():
            return self.roles.dictionary_decode()
        known = pa.array([ROLE_OF.get(role, role) for role in self.roles.dictionary.to_pylist()], pa.string())
        return pa.DictionaryArray.from_arrays(self.roles.indices, known).dictionary_decode()

    def digests(self) -> list[bytes]:
        """As `digest_of` gives them; for rows that are all plain."""
        offsets, text = self._content_bytes()
        starts = self.starts.astype(np.int64)
        seeds = seeds_of(np.diff(offsets), self.codes, starts).tolist()
        bounds = offsets[starts].tolist()
        return [
            xxhash.xxh3_128_digest(text[start:end], seed)
            for start, end, seed in zip(bounds, bounds[1:], seeds, strict=False)
        ]

    def _content_bytes(self) -> tuple[NDArray[np.int64], memoryview]:
        """Offsets [turns + 1] into the bytes of all contents."""
        _, offsets, text = self.contents.buffers()
        first, count = self.contents.offset, len(self.contents)
        numbers = np.frombuffer(offsets, dtype=np.int32)[first : first + count + 1].astype(np.int64)
        return numbers, memoryview(text) if text is not None else memoryview(b"")


def _as_numpy(booleans: Any) -> NDArray[np.bool_]:
    array: NDArray[np.bool_] = booleans.to_numpy(zero_copy_only=False)
    return array
