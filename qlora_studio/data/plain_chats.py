"""Chats and pairs of the usual shape, many lines at once: whole columns are checked together.

Only what the slower way (`file_records.py`, `formats.py`) would import unchanged counts as plain; a test
holds the two against each other. What isn't plain is left to that way, line by line, with reasons and notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qlora_studio.data.batch_digests import digests_of_chats
from qlora_studio.data.chats import ROLE_OF
from qlora_studio.data.formats import Layout
from qlora_studio.data.late_columns import LateColumns
from qlora_studio.data.plain_table import PlainTables
from qlora_studio.data.row_digest import ROLE_CODES
from qlora_studio.data.row_table import utf_8_of

_KEYS = {"messages": ("role", "content"), "sharegpt": ("from", "value")}
_PAIRS = ("alpaca", "prompt_completion", "question_answer", "flan", "longform")
_FIELDS = {"messages", "prompt", "input", "answer", "system", "history", "tools", "media"}
_SYSTEM, _USER, _ASSISTANT = (ROLE_CODES[role] for role in ("system", "user", "assistant"))
_WORTH_IT = 0.9  # share of plain rows; below it the slower way is as fast
_BLANK_BEGINNINGS = np.isin(np.arange(256), [*range(33), 0xC2, 0xE1, 0xE2, 0xE3])  # of blank texts in UTF-8
_BLANK_ENDS = np.isin(np.arange(256), [*range(33), *range(0x80, 0xC0)])


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


def may_be_plain(layout: Layout) -> bool:
    """Whether rows of this layout can be plain."""
    known = layout.format in _KEYS or layout.format in _PAIRS
    return known and layout.map.keys() <= _FIELDS and len(set(layout.map.values())) == len(layout.map)


class PlainChatsReader:
    """Reads the chunks of one file, on several threads."""

    def __init__(self, layout: Layout, late: LateColumns | None = None) -> None:
        self._layout = layout
        self._late = late or LateColumns(layout)
        self._tables = PlainTables(_schema(layout))

    def read(self, block: bytes) -> PlainChats | None:
        """`block` holds whole lines; None where too few of them are plain."""
        read = self._tables.read(block)
        if read is None:
            return None
        lines, table = read
        if any(
            self._late.counts(name) and _says_something(table.column(name)) for name in table.column_names
        ):
            return None
        columns = _Columns(table.combine_chunks(), self._layout.map)
        found = _pairs(columns) if self._layout.format in _PAIRS else _chats(columns)
        if found is None:
            return None
        turns, plain = found
        if plain.mean() < _WORTH_IT:
            return None
        aliased = turns.rows_with(turns.aliased)[plain]
        if not plain.all():
            turns = turns.of_rows(plain)
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


def _schema(layout: Layout) -> Any:
    if layout.format in _PAIRS:
        fields = [field for field in ("prompt", "answer", "input") if field in layout.map]
        return pa.schema([(layout.map[field], pa.string()) for field in fields])
    turn = pa.struct([(key, pa.string()) for key in _KEYS[layout.format]])
    return pa.schema([(layout.map["messages"], pa.list_(turn))])


def _says_something(column: Any) -> bool:
    return not all(_absent(chunk).all() for chunk in column.chunks)


@dataclass(frozen=True)
class _Columns:
    """A table's columns by the field that they give."""

    table: Any
    map: Mapping[str, str]

    def of(self, field: str) -> Any:
        """The column as one array."""
        (chunk,) = self.table.column(self.map[field]).chunks
        return chunk

    def absent(self, field: str) -> NDArray[np.bool_] | bool:
        """Rows where an optional field says nothing; True: it says nothing at all."""
        if field not in self.map or self.map[field] not in self.table.column_names:
            return True
        return _absent(self.of(field))


def _chats(columns: _Columns) -> tuple[_Turns, NDArray[np.bool_]] | None:
    """All turns, and which rows are plain."""
    turns = _Turns.of_lists(columns.of("messages"))
    if turns is None:
        return None
    plain = turns.rows_in_order() & ~turns.rows_with(_blank(turns.contents))
    for field in ("system", "tools", "media"):
        plain &= columns.absent(field)
    return turns, plain


def _pairs(columns: _Columns) -> tuple[_Turns, NDArray[np.bool_]]:
    prompts, answers = columns.of("prompt"), columns.of("answer")
    plain = ~_blank(prompts) & ~_blank(answers)
    for field in ("system", "history", "tools", "media"):
        plain &= columns.absent(field)
    if "input" in columns.map:
        inputs = columns.of("input")
        joined = pc.binary_join_element_wise(prompts, inputs, "\n\n")
        prompts = pc.if_else(pa.array(_blank(inputs)), prompts, joined)
    return _Turns.of_pairs(prompts, answers), plain


@dataclass(frozen=True)
class _Turns:
    """All messages of all rows, one row behind the other."""

    starts: NDArray[np.int32]  # [rows + 1]
    roles: Any  # dictionary-encoded, as spelled
    contents: Any
    codes: NDArray[np.int64]  # ROLE_CODES; 0: a role that isn't plain
    aliased: NDArray[np.bool_]

    @classmethod
    def of_pairs(cls, prompts: Any, answers: Any) -> _Turns:
        """A user's turn and an assistant's in each row."""
        rows = len(prompts)
        roles = pa.DictionaryArray.from_arrays(
            np.tile(np.array([0, 1], dtype=np.int32), rows), pa.array(["user", "assistant"])
        )
        in_turn = pa.array(np.arange(2 * rows).reshape(2, rows).T.reshape(-1))
        contents = pa.concat_arrays([prompts, answers]).take(in_turn)
        codes = np.tile(np.array([_USER, _ASSISTANT], dtype=np.int64), rows)
        starts = np.arange(0, 2 * rows + 1, 2, dtype=np.int32)
        return cls(starts, roles, contents, codes, np.zeros(2 * rows, dtype=np.bool_))

    @classmethod
    def of_lists(cls, chats: Any) -> _Turns | None:
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
        indices = _numbers(roles.indices, len(spellings))
        lengths = _numbers(chats.value_lengths(), 0)
        starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int32)
        return cls(starts, roles, turns.field(1), codes[indices], other[indices])

    def of_rows(self, rows: NDArray[np.bool_]) -> _Turns:
        """Of these rows only."""
        lengths = np.diff(self.starts)
        kept = np.repeat(rows, lengths)
        starts = np.concatenate(([0], np.cumsum(lengths[rows]))).astype(np.int32)
        mask = pa.array(kept)
        return _Turns(
            starts, self.roles.filter(mask), self.contents.filter(mask), self.codes[kept], self.aliased[kept]
        )

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

    def known_roles(self) -> Any:
        """As text, the aliases mapped."""
        if not self.aliased.any():
            return self.roles.dictionary_decode()
        known = pa.array([ROLE_OF.get(role, role) for role in self.roles.dictionary.to_pylist()], pa.string())
        return pa.DictionaryArray.from_arrays(self.roles.indices, known).dictionary_decode()

    def digests(self) -> list[bytes]:
        """As `digest_of` gives them; for rows that are all plain."""
        return digests_of_chats(self.contents, self.codes, self.starts.astype(np.int64))


def _blank(texts: Any) -> NDArray[np.bool_]:
    """Which are missing, or hold blanks only."""
    offsets, text = utf_8_of(texts)
    blank: NDArray[np.bool_] = offsets[1:] == offsets[:-1]
    if texts.null_count:
        blank |= _as_numpy(texts.is_null())
    filled = np.flatnonzero(~blank)
    bytes_ = np.frombuffer(text, dtype=np.uint8)
    begins, ends = bytes_[offsets[:-1][filled]], bytes_[offsets[1:][filled] - 1]
    for index in filled[_BLANK_BEGINNINGS[begins] & _BLANK_ENDS[ends]].tolist():
        blank[index] = not str(text[int(offsets[index]) : int(offsets[index + 1])], "utf-8").strip()
    return blank


def _absent(column: Any) -> NDArray[np.bool_]:
    """Where an optional column says nothing: null, an empty text or an empty list."""
    absent = _as_numpy(column.is_null())
    if pa.types.is_string(column.type):
        absent |= _as_numpy(pc.equal(column, "").fill_null(True))
    elif pa.types.is_list(column.type):
        absent |= _as_numpy(pc.equal(pc.list_value_length(column), 0).fill_null(True))
    return absent


def _numbers(array: Any, for_null: int) -> NDArray[np.int32]:
    filled = array.fill_null(for_null) if array.null_count else array
    numbers: NDArray[np.int32] = filled.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return numbers


def _as_numpy(booleans: Any) -> NDArray[np.bool_]:
    array: NDArray[np.bool_] = booleans.to_numpy(zero_copy_only=False).copy()
    return array
