"""Rows that are nearly equal: nine of ten words the same, in the same order.

What rows that differ in few words have in common: an edit touches at most q of the runs of q words (Ukkonen
1992, "Approximate string-matching with q-grams"). So of a row's runs, put in one order for all rows, the
rare ones first, the first q * edits + c hold c that the other row has among its own first ones (prefix
filter: Chaudhuri, Ganti, Kaushik 2006). Few rows share two rare runs by chance; each such pair is compared
word by word. Nothing is estimated: the pairs that can be missed are those whose runs very many rows share.
Only rows of many thousand words are compared by the words and runs that they have in common, as comparing
all words in their order takes time with the square of their number.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from qlora_studio.data.row_words import RowWords

NEAR_VERSION = 3  # raised when the same rows would give other pairs

LEAST_WORDS = 10  # shorter rows are near only where all words are the same
_HALF = 0.5 + 1e-9  # a tenth is no binary number: 1.5 of 15 words are two
_ANSWERS_SHARE = 0.5  # of their words, at least: two questions on one long text are no copies
_SHARED_RUNS = 2  # c
_BOILERPLATE = 0.05  # a run of words in more than this share of the rows is a form, not what a row says
_BOILERPLATE_ROWS = 50  # and in more than so many
_FORM_WORDS = 8  # at least, in a row
_NEIGHBOURS = 8  # rows with the same run that a row is compared with, on each side
_MOST_PAIRS = 24_000_000  # of rows with a run in common; what is nearer in the order of rows comes first
_MOST_COMPARED = 64  # rows that one row is compared with word by word
_EMITTED = 24_000_000  # runs that are kept of all rows, where each has six
_RUNS_AT_ONCE = 1_000_000
_MOST_STEPS = 300_000_000  # words x edits up to which rows are compared word by word
_LONG_RUN = 3  # words, of rows that are longer
_TELL_EVERY_S = 0.1
_WORDS_AT_ONCE = 1_000_000
_ROWS_AT_ONCE = 1_000_000  # so that they are counted in 20 bits
_MOST_SEEN = 4095

Told = Callable[[int, int, str], None]


@dataclass(frozen=True)
class NearRows:
    """Which rows are nearly equal.

    copy_of: int64 [rows], the earlier row, itself no copy, that each is nearly equal to; -1: none
    groups:  int64 [rows], the first row of those that are linked by near-equal ones
    """

    copy_of: NDArray[np.int64]
    groups: NDArray[np.int64]

    @property
    def copies(self) -> NDArray[np.int64]:
        """Rows that an earlier one is nearly equal to."""
        return np.flatnonzero(self.copy_of >= 0)

    def members(self) -> list[tuple[int, ...]]:
        """Each row that has copies, with them, in the order of the rows."""
        found: dict[int, list[int]] = {}
        for row in self.copies.tolist():
            found.setdefault(int(self.copy_of[row]), []).append(row)
        return [(first, *found[first]) for first in sorted(found)]


def allowed_edits(words: int, threshold: float) -> int:
    """How many words may differ in rows of so many words, the nearest number to the share."""
    return int((1 - threshold) * words + _HALF) if words >= LEAST_WORDS else 0


def near_words(one: NDArray[Any], two: NDArray[Any], threshold: float) -> bool:
    """Whether texts of these words, each a number, are nearly equal."""
    return _within(one, two, allowed_edits(max(len(one), len(two)), threshold))


def find_near_rows(words: RowWords, threshold: float, told: Told, known: int = 0) -> NearRows:
    """known: so many of the first rows are compared with all others, and nothing else with anything."""
    runs = _Runs(words, threshold, told)
    own_words = runs.own_words
    pairs = _candidates(words, runs.found, known, told)
    del runs
    found = _Copies(len(words))
    near = _Comparison(words, own_words, threshold, told)
    for row, others in _by_later(pairs):
        found.take(row, others, near)
    return found.result()


def cached_near_rows(folder: Path, threshold: float, words: Callable[[], RowWords], told: Told) -> NearRows:
    """Of the rows that lie in `folder`, beside which the result is kept."""
    file = folder / f"near-{NEAR_VERSION}-{threshold:g}.npy"
    try:
        copy_of, groups = np.load(file, allow_pickle=False)
        return NearRows(copy_of, groups)
    except (OSError, ValueError, EOFError):
        found = find_near_rows(words(), threshold, told)
    staging = file.with_name(f".staging-{os.getpid()}-{file.name}")
    with contextlib.suppress(OSError):  # where there is no room to keep it, it is found anew
        with staging.open("wb") as written:
            np.save(written, np.stack([found.copy_of, found.groups]), allow_pickle=False)
        staging.replace(file)
    return found


class _Runs:
    """The rare runs of words of each row, and how many words each row has that stand in no common run.

    found:     uint64, run << 32 | row for each run that is kept, in no order; two runs are the same number
               once in four billion times
    own_words: int64 [rows]
    """

    def __init__(self, words: RowWords, threshold: float, told: Told) -> None:
        self._words = words
        self._q = 3 if threshold >= 0.8 else 2
        self._threshold = threshold
        self._told = told
        self._bits = min(26, max(16, len(words.words).bit_length() + 1))
        self._kept = max(6, min(64, _EMITTED // max(1, len(words))))
        self._common = max(_BOILERPLATE_ROWS, int(_BOILERPLATE * len(words)))
        self._seen = np.zeros(1 << self._bits, dtype=np.uint32)
        self._count()
        self.own_words = np.zeros(len(words), dtype=np.int64)
        self.found = self._rare()
        del self._seen

    def _count(self) -> None:
        """How often each run stands in the rows; that some fall together costs time only."""
        for first, last in _parts(self._words):
            self._told(first, len(self._words), "Counting runs of words")
            runs, _, _ = self._of(first, last)
            slots = np.sort(self._slots(runs))
            ends = np.append(np.flatnonzero(slots[1:] != slots[:-1]), len(slots) - 1) if len(slots) else slots
            self._seen[slots[ends]] += np.diff(ends, prepend=-1).astype(np.uint32)

    def _rare(self) -> NDArray[np.uint64]:
        kept, end = np.empty(len(self._words) * self._kept, np.uint64), 0  # the system gives what is written
        for first, last in _parts(self._words):
            self._told(first, len(self._words), "Looking for rare runs of words")
            part = self._rare_of(first, last)
            kept[end : end + len(part)] = part
            end += len(part)
        return kept[:end]

    def _rare_of(self, first: int, last: int) -> NDArray[np.uint64]:
        runs, rows, places = self._of(first, last)
        seen = self._seen[self._slots(runs)]
        own = self._own_words(first, last, places[seen > self._common])
        self.own_words[first:last] = own
        alone = np.bincount(rows[seen == 1], minlength=last - first)
        shared = seen > 1
        # one number that sorts by row, then by how rare the run is, then by the run
        rarity = np.minimum(seen[shared], _MOST_SEEN).astype(np.uint64) << np.uint64(32)
        keys = rows[shared].astype(np.uint64) << np.uint64(44) | rarity | runs[shared] >> np.uint64(32)
        keys.sort()  # several times faster here than np.unique, which hashes
        keys = keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys
        rows = (keys >> np.uint64(44)).astype(np.int64)
        rank = np.arange(len(rows)) - np.searchsorted(rows, np.arange(last - first))[rows]
        kept = rank < np.minimum(self._prefix(own) - alone, self._kept)[rows]
        runs_and_rows: NDArray[np.uint64] = keys[kept] << _HIGH | (rows[kept] + first).astype(np.uint64)
        return runs_and_rows

    def _slots(self, runs: NDArray[np.uint64]) -> NDArray[np.uint32]:
        return (runs >> np.uint64(64 - self._bits)).astype(np.uint32)

    def _prefix(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of a row's runs, the rarest first, must hold some that a near row has too."""
        longest = (own + 1) / self._threshold + 1  # of the other row
        edits = np.where(longest >= LEAST_WORDS, ((1 - self._threshold) * longest + 0.5).astype(np.int64), 0)
        return self._q * edits + _SHARED_RUNS

    def _own_words(self, first: int, last: int, common: NDArray[np.int64]) -> NDArray[np.int64]:
        """Words outside of forms; what is common but short, as "one of the", is no form."""
        starts = self._words.starts[first : last + 1] - self._words.starts[first]
        counts = np.diff(starts)
        formal = np.zeros(int(starts[-1]) + self._q, dtype=bool)
        for ahead in range(self._q):
            formal[common + ahead] = True
        rows = np.repeat(np.arange(last - first), counts)
        formal = formal[: len(rows)]
        bounds = np.flatnonzero((np.diff(formal) != 0) | (np.diff(rows) != 0)) + 1
        ends = np.append(bounds, len(rows))
        stretches = np.diff(ends, prepend=0)
        form = formal[ends - 1] & (stretches >= _FORM_WORDS) if len(rows) else np.zeros(1, bool)
        in_forms = np.bincount(rows[ends[form] - 1], stretches[form], minlength=last - first)
        own: NDArray[np.int64] = counts - in_forms.astype(np.int64)
        return own

    def _of(self, first: int, last: int) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
        """Every run of some rows, its row and its place, both counted from the first of these.

        A row of fewer words than a run has is one run.
        """
        q = self._q
        starts = self._words.starts[first : last + 1]
        words = np.asarray(self._words.words[starts[0] : starts[-1]] >> 1).astype(np.uint64)
        words = _mixed(np.concatenate([words, np.zeros(q, np.uint64)]))
        counts = np.diff(starts)
        rows = np.repeat(np.arange(last - first), counts)
        left = np.repeat(starts[1:] - starts[0], counts) - np.arange(len(rows))  # words from here to the end
        runs = np.zeros(len(rows), dtype=np.uint64)
        for ahead in range(q):
            runs = _mixed(runs * _ODD + np.where(left > ahead, words[ahead : ahead + len(rows)], _END))
        whole = (left >= q) | (np.repeat(counts, counts) == left)
        return runs[whole], rows[whole], np.flatnonzero(whole)


_ODD = np.uint64(0x9E3779B97F4A7C15)
_END = np.uint64(0xD6E8FEB86659FD93)
_HIGH, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread over all bits: the finalizer of splitmix64."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _parts(words: RowWords) -> Iterator[tuple[int, int]]:
    """Rows that together have about so many words as are looked at at once."""
    first = 0
    while first < len(words):
        end = words.starts[first] + _WORDS_AT_ONCE
        last = max(first + 1, int(np.searchsorted(words.starts, end, side="right")) - 1)
        last = min(last, len(words), first + _ROWS_AT_ONCE)
        yield first, last
        first = last


def _candidates(words: RowWords, runs: NDArray[np.uint64], known: int, told: Told) -> NDArray[np.uint64]:
    """Pairs of rows that share enough rare runs, each as later row << 32 | earlier row, in order.

    runs: run << 32 | row; sorted here in place, as the whole takes hundreds of megabytes
    """
    told(0, len(words), "Sorting runs of words")
    runs.sort()  # by run, then by row
    shared = _sharing(runs, known, told)
    told(0, len(words), "Sorting pairs of rows")
    shared.sort()
    counts, kept = words.counts, [np.zeros(0, np.uint64)]
    for start in range(0, len(shared), _RUNS_AT_ONCE):
        told(start, len(shared), "Choosing pairs of rows")
        end = min(start + _RUNS_AT_ONCE, len(shared))
        pairs = shared[start:end]
        begins = np.append(start == 0 or shared[start - 1] != pairs[0], pairs[1:] != pairs[:-1])
        again = np.zeros(len(pairs), dtype=bool)
        ahead = shared[start + _SHARED_RUNS - 1 : end + _SHARED_RUNS - 1]
        again[: len(ahead)] = ahead == pairs[: len(ahead)]
        few = np.minimum(counts[pairs >> _HIGH], counts[pairs & _LOW]) < LEAST_WORDS
        kept.append(pairs[begins & (again | few)])
    return np.concatenate(kept)


def _sharing(runs: NDArray[np.uint64], known: int, told: Told) -> NDArray[np.uint64]:
    """Pairs of rows that have a run in common, as often as they have one, in no order; only so many."""
    found, end = np.empty(min(_MOST_PAIRS, _NEIGHBOURS * len(runs)), np.uint64), 0
    for at in range(_NEIGHBOURS):
        for start in range(0, len(runs), _RUNS_AT_ONCE):
            told(at * len(runs) + start, _NEIGHBOURS * len(runs), "Looking for rows with the same runs")
            pairs = _with_known(runs, start, at, known) if known else _with_neighbour(runs, start, at + 1)
            pairs = pairs[: len(found) - end]
            found[end : end + len(pairs)] = pairs
            end += len(pairs)
    return found[:end]


def _with_neighbour(runs: NDArray[np.uint64], start: int, apart: int) -> NDArray[np.uint64]:
    """Of some runs, the rows that stand so far apart and have the same."""
    later = runs[start + apart : start + apart + _RUNS_AT_ONCE]
    earlier = runs[start : start + len(later)]
    same = (earlier ^ later) >> _HIGH == 0
    return _pairs(earlier[same], later[same])


def _with_known(runs: NDArray[np.uint64], start: int, at: int, known: int) -> NDArray[np.uint64]:
    """Of some runs, rows beyond the known ones with a known one that has the same: those stand before."""
    later = runs[start : start + _RUNS_AT_ONCE]
    later = later[later & _LOW >= known]
    place = np.searchsorted(runs, later >> _HIGH << _HIGH) + at  # counted from where this run begins
    earlier = runs[np.minimum(place, len(runs) - 1)]
    both = ((earlier ^ later) >> _HIGH == 0) & (earlier & _LOW < known)
    return _pairs(earlier[both], later[both])


def _pairs(earlier: NDArray[np.uint64], later: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return later << _HIGH | earlier & _LOW


def _by_later(pairs: NDArray[np.uint64]) -> Iterator[tuple[int, list[int]]]:
    """Each later row with the earlier ones of its pairs."""
    later = (pairs >> _HIGH).astype(np.uint32)
    bounds = np.concatenate([[0], np.flatnonzero(later[1:] != later[:-1]) + 1, [len(later)]])
    bounds = bounds if len(later) else bounds[:0]
    for at in range(0, len(bounds) - 1, _RUNS_AT_ONCE):  # numbers of Python take much memory
        some = bounds[at : at + _RUNS_AT_ONCE + 1].tolist()
        for start, end in itertools.pairwise(some):
            others = pairs[start : min(end, start + _MOST_COMPARED)] & _LOW
            yield int(later[start]), others.tolist()


class _Comparison:
    """Whether two rows are near, word by word."""

    def __init__(self, words: RowWords, own_words: NDArray[np.int64], threshold: float, told: Told) -> None:
        self._words = words
        self._told = told
        self._told_at = 0.0
        self._own = own_words
        self._threshold = threshold
        self._last: tuple[int, NDArray[np.uint32]] = (-1, np.zeros(0, np.uint32))

    def __call__(self, row: int, other: int) -> bool:
        if time.monotonic() - self._told_at > _TELL_EVERY_S:  # long rows take long
            self._told(row, len(self._words), "Comparing rows")
            self._told_at = time.monotonic()
        edits = allowed_edits(int(max(self._own[row], self._own[other])), self._threshold)
        one, two = self._of_row(row), self._words.of(other)
        if not _within(one >> 1, two >> 1, edits):
            return False
        answer, other_answer = one[one & 1 == 1], two[two & 1 == 1]
        return _within(answer, other_answer, int((1 - _ANSWERS_SHARE) * max(len(answer), len(other_answer))))

    def _of_row(self, row: int) -> NDArray[np.uint32]:
        if self._last[0] != row:
            self._last = (row, self._words.of(row))
        return self._last[1]


def _within(one: NDArray[Any], two: NDArray[Any], edits: int) -> bool:
    """Whether so many edits make one of the other.

    Of long texts only what no such pair lacks is asked for: all words but so many, in whatever order, and
    all runs of three words but three times as many.
    """
    longest = max(len(one), len(two))
    if abs(len(one) - len(two)) > edits:
        return False
    if longest * edits <= _MOST_STEPS:
        return bool(Levenshtein.distance(one.tolist(), two.tolist(), score_cutoff=edits) <= edits)
    missing_words = longest - _in_common(one, two)
    missing_runs = longest - _LONG_RUN + 1 - _in_common(_long_runs(one), _long_runs(two))
    return missing_words <= edits and missing_runs <= _LONG_RUN * edits


def _in_common(one: NDArray[Any], two: NDArray[Any]) -> int:
    """How many numbers both have, each as often as both have it."""
    values, counts = np.unique(one, return_counts=True)
    others, other_counts = np.unique(two, return_counts=True)
    _, at, other_at = np.intersect1d(values, others, assume_unique=True, return_indices=True)
    return int(np.minimum(counts[at], other_counts[other_at]).sum())


def _long_runs(words: NDArray[Any]) -> NDArray[np.uint64]:
    runs = np.zeros(len(words) - _LONG_RUN + 1, dtype=np.uint64)
    for ahead in range(_LONG_RUN):
        runs = _mixed(runs * _ODD + words[ahead : ahead + len(runs)].astype(np.uint64))
    return runs


class _Copies:
    """Which row is a copy of which, as rows come in their order."""

    def __init__(self, rows: int) -> None:
        self._copy_of = np.full(rows, -1, dtype=np.int64)
        self._parent: dict[int, int] = {}
        self._rows = rows

    def take(self, row: int, others: list[int], near: Callable[[int, int], bool]) -> None:
        """others: earlier rows that may be near to this one; what they are copies of may be so too."""
        compared: dict[int, bool] = {}

        def is_near(other: int) -> bool:
            if other not in compared:
                compared[other] = near(row, other)
            return compared[other]

        firsts = dict.fromkeys(
            other if self._copy_of[other] < 0 else int(self._copy_of[other]) for other in others
        )
        first = next((other for other in firsts if is_near(other)), -1)
        if first >= 0:
            self._copy_of[row] = first
            self._join(row, first)
        for other in others:
            if self._root(row) != self._root(other) and is_near(other):
                self._join(row, other)

    def result(self) -> NearRows:
        """After the last row."""
        groups = np.arange(self._rows, dtype=np.int64)
        for row in self._parent:
            groups[row] = self._root(row)
        return NearRows(self._copy_of, groups)

    def _join(self, row: int, other: int) -> None:
        one, two = sorted((self._root(row), self._root(other)))
        self._parent[two] = one

    def _root(self, row: int) -> int:
        while (parent := self._parent.get(row, row)) != row:
            self._parent[row] = self._parent.get(parent, parent)
            row = parent
        return row
