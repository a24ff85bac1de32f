"""Rows as sequences of words, each a number: what near-equal rows are found by."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from qlora_studio.data.path_text import path_text
from qlora_studio.errors import StudioError

# Written without spaces: each character is a word.
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
_THREADS = 2
_AHEAD = 4  # batches in work while one is taken

Told = Callable[[int, int, str], None]  # done, of total, in words


@dataclass(frozen=True)
class RowWords:
    """Words of all rows, in lower case, without system texts.

    words:  uint32, one row behind the other; odd: of an answer
    starts: int64 [rows + 1], into `words`
    """

    words: NDArray[np.uint32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Words of each row."""
        return np.diff(self.starts)

    def of(self, row: int) -> NDArray[np.uint32]:
        """One row's."""
        return self.words[self.starts[row] : self.starts[row + 1]]

    def some(self, first: int, last: int) -> RowWords:
        """Rows `first` to `last`, the latter not included."""
        return RowWords(self.words, self.starts[first : last + 1])


class HasBatches(Protocol):
    """Rows as record batches."""

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[Any]: ...


def read_words(datasets: Sequence[HasBatches], scratch: Path, told: Told) -> RowWords:
    """Of all rows of these data sets, one behind the other.

    They lie in a file in `scratch`, four bytes a word, that is gone with the result.

    Raises: StudioError where there is no room for it.
    """
    try:
        return _read_words(datasets, scratch, told)
    except OSError as error:
        raise StudioError(
            f"The words of the rows can't be written to {path_text(scratch)}: {error.strerror or error}.",
            hint="Free some space there, or move the cache.",
        ) from error


def _read_words(datasets: Sequence[HasBatches], scratch: Path, told: Told) -> RowWords:
    total = sum(len(dataset) for dataset in datasets)
    counts: list[NDArray[np.int64]] = []
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=scratch, prefix=".words-") as file:
        done = 0
        for words, per_row in _in_turn(words_of_batch, (b for d in datasets for b in d.batches())):
            told(done, total, "Reading words")
            file.write(words.tobytes())
            counts.append(per_row)
            done += len(per_row)
        file.flush()
        starts = np.concatenate([np.zeros(1, np.int64), *counts]).cumsum()
        empty = np.zeros(0, np.uint32)
        flat = np.memmap(file, dtype=np.uint32, mode="r") if starts[-1] else empty
    return RowWords(flat, starts)


def words_of_batch(batch: Any) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The words of a record batch of rows, and how many each row has."""
    texts, rows, answers = _texts(batch)
    lists = pc.utf8_split_whitespace(pc.utf8_lower(_apart(texts)))
    flat = lists.flatten()
    per_text = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    encoded = flat.dictionary_encode()
    known = encoded.dictionary.cast(pa.binary()).to_pylist()
    numbers = np.array([xxhash.xxh3_64_intdigest(word) for word in known], dtype=np.uint64)
    words = numbers.astype(np.uint32)[encoded.indices.to_numpy()] & np.uint32(0xFFFFFFFE)
    words |= np.repeat(answers, per_text).astype(np.uint32)
    row_of_word = np.repeat(rows, per_text)
    there = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)  # spaces at either end give one
    if not there.all():
        words, row_of_word = words[there], row_of_word[there]
    return words, np.bincount(row_of_word, minlength=batch.num_rows).astype(np.int64)


def _texts(batch: Any) -> tuple[Any, NDArray[np.int64], NDArray[np.bool_]]:
    """Every text that counts, the row it belongs to, in their order, and whether it is an answer."""
    found = [_texts_of_messages(batch.column("messages")), _texts_of_messages(batch.column("rejected"))]
    raw = batch.column("text")
    at = np.flatnonzero(raw.is_valid().to_numpy(zero_copy_only=False))
    found.append((raw.drop_null(), at, np.zeros(len(at), dtype=bool)))
    found = [part for part in found if len(part[1])] or found[:1]
    if len(found) == 1:
        return found[0]
    rows = np.concatenate([rows for _, rows, _ in found])
    order = np.argsort(rows, kind="stable")
    texts = pa.concat_arrays([texts for texts, _, _ in found]).take(pa.array(order))
    return texts, rows[order], np.concatenate([answers for _, _, answers in found])[order]


def _texts_of_messages(messages: Any) -> tuple[Any, NDArray[np.int64], NDArray[np.bool_]]:
    flat = messages.flatten()
    rows = pc.list_parent_indices(messages).to_numpy(zero_copy_only=False).astype(np.int64)
    roles, contents, more = (flat.field(name) for name in ("role", "content", "more"))
    if more.null_count < len(more):  # calls of tools and thoughts are part of what is said
        contents = pc.binary_join_element_wise(contents, more, " ", null_handling="skip")
    kept = pc.not_equal(roles, "system")
    counted = kept.to_numpy(zero_copy_only=False)
    answers = pc.equal(roles, "assistant").to_numpy(zero_copy_only=False)
    return contents.filter(kept), rows[counted], answers[counted]


def _apart(texts: Any) -> Any:
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:
        return texts
    return pc.replace_substring_regex(texts, pattern=_UNSPACED, replacement=r" \1 ")


def _in_turn(work: Callable[[Any], Any], batches: Iterator[Any]) -> Iterator[Any]:
    """What `work` makes of each batch, in their order; some are in work while one is taken."""
    with ThreadPoolExecutor(_THREADS) as threads:
        waiting: deque[Future[Any]] = deque()
        for batch in batches:
            waiting.append(threads.submit(work, batch))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
