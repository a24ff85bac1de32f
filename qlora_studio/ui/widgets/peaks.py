"""A long series cut down to what a screen can show, every peak kept: a million points pan like a thousand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 8  # places of one level that make one of the next


class Peaks:
    """Knows where the lowest and the highest value of every stretch stand, in levels like a map's.

    Values are only added at the end; for others make another one. NaN is neither low nor high: a stretch
    of nothing else stays a gap.
    """

    def __init__(self) -> None:
        self.values: NDArray[Any] = np.empty(0)
        self._lowest: list[NDArray[Any]] = []  # by level: places in `values`
        self._highest: list[NDArray[Any]] = []
        self._size = 0

    def grow(self, values: NDArray[Any]) -> None:
        """values: all of them, those from before first."""
        first_new, self._size = self._size, len(values)
        self.values = values
        level, count, above = 0, len(values), None
        while count > _BLOCK:
            if level == len(self._lowest):
                self._lowest.append(np.empty(0, "int64"))
                self._highest.append(np.empty(0, "int64"))
            kept = first_new // _BLOCK ** (level + 1)
            for levels, ufunc in ((self._lowest, np.argmin), (self._highest, np.argmax)):
                below = above[ufunc is np.argmax] if above else None
                added = self._blocks(below, kept * _BLOCK, count, ufunc)
                levels[level] = np.concatenate([levels[level][:kept], added])
            above = (self._lowest[level], self._highest[level])
            count = len(self._lowest[level])
            level += 1

    def between(self, first: int, last: int, columns: int) -> NDArray[Any]:
        """Places of at most about 2 * `columns` values that draw first .. last - 1 as all of them would."""
        if last - first <= 2 * columns:
            return np.arange(first, last)
        lowest = self._places(self._lowest, first, last, columns, np.argmin)
        highest = self._places(self._highest, first, last, columns, np.argmax)
        both = np.stack((np.minimum(lowest, highest), np.maximum(lowest, highest)), axis=1).ravel()
        return both[np.concatenate(([True], both[1:] != both[:-1]))]

    def highest(self, first: int, last: int, columns: int) -> NDArray[Any]:
        """Places of at most about `columns` values: the highest of each stretch."""
        if last - first <= columns:
            return np.arange(first, last)
        return self._places(self._highest, first, last, columns, np.argmax)

    def _places(
        self, levels: list[NDArray[Any]], first: int, last: int, columns: int, ufunc: Any
    ) -> NDArray[Any]:
        level, side = -1, 1
        while level + 1 < len(levels) and side * _BLOCK * columns <= last - first:
            level, side = level + 1, side * _BLOCK
        places = np.arange(first, last) if level < 0 else levels[level][first // side : -(-last // side)]
        return self._grouped(places, -(-len(places) // columns), ufunc)

    def _blocks(self, below: NDArray[Any] | None, first: int, count: int, ufunc: Any) -> NDArray[Any]:
        places = np.arange(first, count) if below is None else below[first:count]
        return self._grouped(places, _BLOCK, ufunc)

    def _grouped(self, places: NDArray[Any], side: int, ufunc: Any) -> NDArray[Any]:
        """The place of the lowest, or highest, of every `side` places."""
        if side <= 1 or not len(places):
            return places
        rows = -(-len(places) // side)
        flat = np.full(rows * side, places[-1])
        flat[: len(places)] = places
        padded = flat.reshape(rows, side)
        worst = np.inf if ufunc is np.argmin else -np.inf
        values = self.values[padded]
        if values.dtype.kind == "f":
            values = np.where(np.isfinite(values), values, worst)
        found: NDArray[Any] = padded[np.arange(rows), ufunc(values, axis=1)]
        return found
