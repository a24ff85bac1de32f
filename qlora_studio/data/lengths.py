"""How long the rows are in tokens of a model: for the histogram, and for what a length limit costs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qlora_studio.config.places import cache_folder
from qlora_studio.config.run_config import PREFERENCES
from qlora_studio.data.conversation import Row
from qlora_studio.data.dataset import Dataset
from qlora_studio.data.row_encoder import ROWS_AT_ONCE, EncodedRow, RowEncoder, UnusableRow
from qlora_studio.data.token_view import Lengths

_BINS = 48  # about as many bars as the histogram has room for
LENGTHS_VERSION = 2  # raised when the same rows would have other lengths
_BIN_STEP = 16  # tokens; bars begin at multiples of it

Told = Callable[[int, int, str], None]  # done, of total, in words


def count_lengths(rows: Dataset, encoder: RowEncoder, told: Told) -> Lengths:
    """From the cache where they were counted before."""
    file = cache_folder() / "lengths" / f"{_cache_key(rows, encoder)}.npy"
    counted = _read(file, len(rows))
    if counted is None:
        counted = _count(rows, encoder, told)
        _write(file, counted)
    tokens, learned = counted[:, 0], counted[:, 1]
    return Lengths(
        file=str(file),
        rows=len(rows),
        tokens=int(tokens.sum(dtype=np.int64)),
        learned_tokens=int(learned.sum(dtype=np.int64)),
        longest=int(tokens.max(initial=0)),
        median=int(np.median(tokens)) if len(tokens) else 0,
        nothing_to_learn=int((learned == 0).sum()),
        template_sha256=encoder.template.sha256,
        refused=_refused(rows, np.flatnonzero(tokens == 0), encoder)
        or _left_out(rows, np.flatnonzero(learned == 0), encoder),
    )


def read_lengths(lengths: Lengths) -> NDArray[np.int32]:
    """int32 [rows, 2]: tokens and learned tokens of each row."""
    counted: NDArray[np.int32] = np.load(lengths.file, allow_pickle=False)
    return counted


def histogram(tokens: NDArray[np.int32]) -> tuple[tuple[int, ...], int]:
    """Rows in each bin, and the bins' width in tokens. tokens: int32 [rows]"""
    longest = int(tokens.max(initial=0))
    width = max(1, -(-(longest + 1) // (_BINS * _BIN_STEP))) * _BIN_STEP
    bins = np.bincount(tokens // width, minlength=1)
    return tuple(bins.tolist()), width


def _count(rows: Dataset, encoder: RowEncoder, told: Told) -> NDArray[np.int32]:
    counted = np.zeros((len(rows), 2), dtype=np.int32)
    for batch in encoder.encode_each(_batches(rows)):
        told(batch[0].row.row, len(rows), "Counting tokens")
        for item in batch:
            if isinstance(item, EncodedRow):  # a row that can't be rendered teaches nothing
                counted[item.row.row] = _tokens(item, encoder.method), item.learned_tokens
    return counted


def _tokens(item: EncodedRow, method: str) -> int:
    """Within the limit together; for KTO each chat by itself."""
    if method == "kto" and item.worse is not None:
        return max(len(item.ids), len(item.worse.ids))
    return item.tokens


def _refused(rows: Dataset, without: NDArray[np.int64], encoder: RowEncoder) -> str:
    """In words; empty where the first row `without` tokens is none that the template refuses."""
    (item,) = encoder.encode([rows.row(int(without[0]))]) if len(without) else (None,)
    return f"{item.reason} {item.hint}".strip() if isinstance(item, UnusableRow) else ""


def _left_out(rows: Dataset, nothing: NDArray[np.int64], encoder: RowEncoder) -> str:
    """As `_refused`, where the method has no use for the first of the rows that teach `nothing`."""
    reason = encoder.left_out(rows.row(int(nothing[0]))) if len(nothing) else ""
    return f"It is a row {reason}. {encoder.way_on}" if reason else ""


def _batches(rows: Dataset) -> Iterator[list[Row]]:
    waiting = iter(rows)
    while batch := list(islice(waiting, ROWS_AT_ONCE)):
        yield batch


def _cache_key(rows: Dataset, encoder: RowEncoder) -> str:
    parts = (
        str(LENGTHS_VERSION),
        rows.folder.name,
        encoder.tokenizer.sha256,
        encoder.template.sha256,
        encoder.train_on,
        *([encoder.method] if encoder.method in PREFERENCES else []),  # others have the lengths of before
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _read(file: Path, rows: int) -> NDArray[np.int32] | None:
    try:
        counted: NDArray[np.int32] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return counted if counted.shape == (rows, 2) and counted.dtype == np.int32 else None


def _write(file: Path, counted: NDArray[np.int32]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    staging = file.with_name(f".staging-{os.getpid()}-{file.name}")
    with staging.open("wb") as written:
        np.save(written, counted, allow_pickle=False)
    staging.replace(file)
