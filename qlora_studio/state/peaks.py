"""A long series cut down to what a screen can show, every peak kept: a million points pan like a thousand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 8  # places of one level that make one of the next

Places = NDArray[np.int64]
Choice = Callable[..., Any]  # np.argmin or np.argmax


class Peaks:
    """Knows where the lowest and the highest value of every stretch stand, in levels like a map's.

    Never changes: `grown` gives another one that shares what stays. NaN is neither low nor high: a stretch of
    nothing else stays a gap.
    """

    def __init__(
        self, values: NDArray[Any], lowest: tuple[Places, ...] = (), highest: tuple[Places, ...] = ()
    ) -> None:
        self.values = values
        self._lowest, self._highest = lowest, highest  # by level: places in `values`

    def grown(self, values: NDArray[Any]) -> Peaks:
        """values: all of them, those from before first."""
        same = len(self.values)
        lowest = _levels(values, self._lowest, same, np.argmin)
        highest = _levels(values, self._highest, same, np.argmax)
        return Peaks(values, lowest, highest)

    def between(self, first: int, last: int, columns: int) -> Places:
        """Places of at most about 2 * `columns` values that draw first .. last - 1 as all of them would."""
        if last - first <= 2 * columns:
            return np.arange(first, last)
        lowest = self._places(self._lowest, first, last, columns, np.argmin)
        highest = self._places(self._highest, first, last, columns, np.argmax)
        both = np.stack((np.minimum(lowest, highest), np.maximum(lowest, highest)), axis=1).ravel()
        return both[np.concatenate(([True], both[1:] != both[:-1]))]

    def highest(self, first: int, last: int, columns: int) -> Places:
        """Places of at most about `columns` values: the highest of each stretch."""
        if last - first <= columns:
            return np.arange(first, last)
        return self._places(self._highest, first, last, columns, np.argmax)

    def _places(
        self, levels: tuple[Places, ...], first: int, last: int, columns: int, choice: Choice
    ) -> Places:
        level, side = -1, 1
        while level + 1 < len(levels) and side * _BLOCK * columns <= last - first:
            level, side = level + 1, side * _BLOCK
        places = np.arange(first, last) if level < 0 else levels[level][first // side : -(-last // side)]
        return _chosen(self.values, places, -(-len(places) // columns), choice)


def _levels(
    values: NDArray[Any], before: tuple[Places, ...], same: int, choice: Choice
) -> tuple[Places, ...]:
    """same: values from before; what was found of whole blocks of them is kept."""
    levels: list[Places] = []
    below: Places | None = None
    count = len(values)
    while count > _BLOCK:
        level = len(levels)
        kept = min(same // _BLOCK ** (level + 1), len(before[level])) if level < len(before) else 0
        start = kept * _BLOCK
        if below is None:
            added = _chosen_of_all(values, start, choice)
        else:
            added = _chosen(values, below[start:], _BLOCK, choice)
        below = np.concatenate((before[level][:kept], added)) if kept else added
        levels.append(below)
        count = len(below)
    return tuple(levels)


def _chosen_of_all(values: NDArray[Any], start: int, choice: Choice) -> Places:
    """For every block of the values from `start` on; whole blocks are looked at where they lie."""
    whole = (len(values) - start) // _BLOCK
    end = start + whole * _BLOCK
    blocks = _comparable(values[start:end].reshape(whole, _BLOCK), choice)
    found: Places = choice(blocks, axis=1) + np.arange(start, end, _BLOCK)
    if end == len(values):
        return found
    last = end + int(choice(_comparable(values[end:], choice)))
    return np.append(found, last)


def _chosen(values: NDArray[Any], places: Places, side: int, choice: Choice) -> Places:
    """Of every `side` places, the one with the lowest, or highest, value."""
    if side <= 1 or not len(places):
        return places
    rows = -(-len(places) // side)
    flat = np.full(rows * side, places[-1])
    flat[: len(places)] = places
    blocks = flat.reshape(rows, side)
    found: Places = blocks[np.arange(rows), choice(_comparable(values[blocks], choice), axis=1)]
    return found


def _comparable(values: NDArray[Any], choice: Choice) -> NDArray[Any]:
    """Without NaN, which would be chosen before all others."""
    if values.dtype.kind != "f":
        return values
    gaps = np.isnan(values)
    if not gaps.any():
        return values
    return np.where(gaps, np.inf if choice is np.argmin else -np.inf, values)
