"""Rows ready to be trained on: token ids and weights in memory-mapped files, and what they came from."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.errors import StudioError

SCHEMA_VERSION = 1
TRAIN, VALIDATION = "train.arrow", "validation.arrow"
_INFO = "prepared.json"
_ROWS_A_BATCH = 4096  # written at once; a few MB

_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("input_ids", pa.list_(pa.int32())),
        ("weights", pa.list_(pa.float32())),
        ("second", pa.int32()),  # files of before preferences don't have it
    ]
)


class EncodedSample(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt answered at each checkpoint, rendered and encoded."""

    prompt: str
    ids: tuple[int, ...]
    max_tokens: int


class PreparedInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows were made from, and what was left out. Rows that teach nothing aren't in the files."""

    schema_version: int = SCHEMA_VERSION
    content_sha256: str  # of every id and weight, training and validation, in order (R3)
    data_sha256: str
    tokenizer_sha256: str
    template_sha256: str
    seq_len: int  # no row is longer; of an encoder-decoder source and target together
    pad_id: int
    eos_id: int
    stop_ids: tuple[int, ...]  # any of them ends an answer
    vocab_size: int  # one more than the largest id the tokenizer can give
    train_rows: int
    validation_rows: int
    train_tokens: int
    train_learned_tokens: int
    validation_learned_tokens: int
    longest: int  # tokens of the longest row
    too_long_dropped: int
    too_long_cut: int
    nothing_to_learn: int
    not_rendered: int  # rows that the template refuses
    special_in_text: int  # special tokens' names inside foreign text, encoded as text (D9)
    rows_on_both_sides: int  # equal rows that stayed in training and validation
    samples: tuple[EncodedSample, ...]
    refusals: tuple[str, ...] = ()  # of the template: lines and reasons of the first ones
    notes: tuple[str, ...] = ()


class MappedRows:
    """Tokenized rows in an Arrow file; reading one copies nothing."""

    def __init__(self, file: Path) -> None:
        with pa.memory_map(os.fspath(file)) as source:
            batches = pa.ipc.open_file(source)
            parts = [_Part(batches.get_batch(i)) for i in range(batches.num_record_batches)]
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part.rows) for part in parts)])
        lengths = [np.diff(part.offsets) for part in parts]
        self.lengths: NDArray[np.int32] = np.concatenate([*lengths, np.array([], np.int32)]).astype(np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TokenizedRow:
        if not 0 <= index < len(self):
            raise IndexError(index)
        at = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[at].row(index - int(self._starts[at]))

    def places_of(self, rows: Collection[int]) -> frozenset[int]:
        """Where these rows of the imported data set lie; empty for those that don't."""
        return frozenset(np.flatnonzero(np.isin(self._numbers(), list(rows))).tolist())

    def tokens_of(self, rows: Collection[int]) -> dict[int, int]:
        """Of these rows of the imported data set, as far as they are here; of a split text all parts."""
        numbers, found = self._numbers(), dict[int, int]()
        for place in sorted(self.places_of(rows)):
            row = int(numbers[place])
            found[row] = found.get(row, 0) + int(self.lengths[place])
        return found

    def _numbers(self) -> NDArray[np.int64]:
        return np.concatenate([*(part.rows for part in self._parts), np.array([], np.int64)])


class _Part:
    """One record batch as arrays."""

    def __init__(self, batch: Any) -> None:
        ids, weights = batch.column("input_ids"), batch.column("weights")
        self.rows: NDArray[np.int64] = batch.column("row").to_numpy()
        self.offsets: NDArray[np.int32] = ids.offsets.to_numpy()
        self._ids: NDArray[np.int32] = ids.values.to_numpy()
        self._weights: NDArray[np.float32] = weights.values.to_numpy()
        has_second = "second" in batch.schema.names
        self._second = batch.column("second").to_numpy() if has_second else np.zeros(len(self.rows), np.int32)

    def row(self, index: int) -> TokenizedRow:
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        second = int(self._second[index])
        return TokenizedRow(int(self.rows[index]), self._ids[span], self._weights[span], second)


class PreparedRows:
    """An opened folder of prepared rows."""

    def __init__(self, folder: Path, info: PreparedInfo) -> None:
        self.folder = folder
        self.info = info
        self.train = MappedRows(folder / TRAIN)
        self.validation = MappedRows(folder / VALIDATION)

    @property
    def tokens_at_most(self) -> int:
        """Of all rows that one batch may have: training and evaluation have their own."""
        return max(int(rows.lengths.sum()) for rows in (self.train, self.validation))


def open_prepared(folder: Path) -> PreparedRows:
    """Raises: StudioError naming the file that is missing or broken."""
    file = folder / _INFO
    try:
        info = msgspec.json.decode(file.read_bytes(), type=PreparedInfo)
        return PreparedRows(folder, info)
    except (OSError, pa.ArrowException, msgspec.MsgspecError, ValueError) as error:
        raise StudioError(
            f"The prepared rows in {folder} can't be read: {error}",
            hint="Start the run again; they are made anew from the data.",
        ) from error


class ContentHash:
    """Of every row's number, ids and weights; equal exactly where training would see the same (R3)."""

    def __init__(self) -> None:
        self._parts = [hashlib.sha256(), hashlib.sha256()]  # training, validation

    def add(self, row: TokenizedRow, *, held_out: bool) -> None:
        """The next row of its part."""
        digest = self._parts[held_out]
        digest.update(np.array([row.row, len(row.ids)], dtype="<i8").tobytes())
        digest.update(row.ids.astype("<i4", copy=False).tobytes())
        digest.update(row.weights.astype("<f4", copy=False).tobytes())
        if row.second:
            digest.update(np.array([row.second], dtype="<i8").tobytes())

    def hexdigest(self) -> str:
        """Of both parts."""
        return hashlib.sha256(b"".join(part.digest() for part in self._parts)).hexdigest()


def check_content(prepared: PreparedRows) -> None:
    """Raises: StudioError where the files no longer hold what was prepared (R3)."""
    found = ContentHash()
    for held_out, rows in enumerate((prepared.train, prepared.validation)):
        for i in range(len(rows)):
            found.add(rows[i], held_out=bool(held_out))
    if found.hexdigest() != prepared.info.content_sha256:
        raise StudioError(
            f"The prepared rows in {prepared.folder} have changed since the run was prepared.",
            hint="Start a new run from the data.",
        )


class PreparedWriter:
    """Writes a folder of prepared rows as they come: staged beside it, whole once it is renamed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder.parent))
        self._hash = ContentHash()
        self.train = RowsWriter(self._staging / TRAIN)
        self.validation = RowsWriter(self._staging / VALIDATION)

    def __enter__(self) -> PreparedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.train.close()
        self.validation.close()
        shutil.rmtree(self._staging, ignore_errors=True)  # gone already where `finish` renamed it

    def add(self, row: TokenizedRow, *, held_out: bool) -> None:
        """The next row of its part."""
        self._hash.add(row, held_out=held_out)
        (self.validation if held_out else self.train).add(row)

    def content_sha256(self) -> str:
        """Of all rows so far."""
        return self._hash.hexdigest()

    def finish(self, info: PreparedInfo) -> PreparedRows:
        """The folder is there, whole. Where another process was faster, what it made serves as well."""
        self.train.close()
        self.validation.close()
        (self._staging / _INFO).write_bytes(msgspec.json.format(msgspec.json.encode(info)))
        for file in self._staging.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        try:
            self._staging.rename(self._folder)
        except OSError:
            if not (self._folder / _INFO).exists():
                raise
        return open_prepared(self._folder)


class RowsWriter:
    """One Arrow file of tokenized rows, and what it holds."""

    def __init__(self, file: Path) -> None:
        self._sink = pa.OSFile(os.fspath(file), "wb")
        self._writer = pa.ipc.new_file(self._sink, _SCHEMA)
        self._waiting: list[TokenizedRow] = []
        self.rows = self.tokens = self.learned_tokens = self.longest = 0

    def add(self, row: TokenizedRow) -> None:
        """The next one."""
        self._waiting.append(row)
        self.rows += 1
        self.tokens += len(row.ids)
        self.learned_tokens += row.learned_tokens
        self.longest = max(self.longest, len(row.ids))
        if len(self._waiting) == _ROWS_A_BATCH:
            self._write()

    def close(self) -> None:
        """Write what is left. More than once is allowed."""
        if not self._sink.closed:
            self._write()
            self._writer.close()
            self._sink.close()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_batch(_record_batch(self._waiting))
            self._waiting = []


def _record_batch(rows: list[TokenizedRow]) -> Any:
    offsets = pa.array(np.cumsum([0, *(len(row.ids) for row in rows)]), pa.int32())
    ids = np.concatenate([row.ids for row in rows])
    weights = np.concatenate([row.weights for row in rows])
    return pa.record_batch(
        [
            pa.array([row.row for row in rows], pa.int64()),
            pa.ListArray.from_arrays(offsets, pa.array(ids, pa.int32())),
            pa.ListArray.from_arrays(offsets, pa.array(weights, pa.float32())),
            pa.array([row.second for row in rows], pa.int32()),
        ],
        schema=_SCHEMA,
    )
