"""The tokens of one text, and which characters of it each of them stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]  # characters of a text, the second one not included


class Encoded:
    """The tokens of one text, and which characters they stand for."""

    def __init__(
        self, encoding: Any, ids_of: dict[int, int] | None = None, places: list[Span] | None = None
    ) -> None:
        self._encoding = encoding
        ids = encoding.ids
        if ids_of:
            ids = [ids_of.get(id, id) for id in ids]
        self.ids: NDArray[np.int32] = np.fromiter(ids, np.int32, len(ids))  # half the time of np.array
        self._places = places

    def tokens_of(self, start: int, end: int) -> slice:
        """The tokens that stand for any of the characters from `start` to before `end`."""
        if start >= end:
            return slice(0, 0)
        first = self._first_token(self._renamed(start), self._renamed(end))
        if first is None:
            return slice(0, 0)
        after = self._first_token(self._renamed(end), None)
        if after is None:
            return slice(first, len(self.ids))
        straddles = self._encoding.token_to_chars(after)[0] < self._renamed(end)
        return slice(first, after + 1 if straddles else after)

    def spans(self) -> list[Span]:
        """The characters of the text that each token stands for."""
        return [(self._original(start), self._original(end)) for start, end in self._encoding.offsets]

    def _first_token(self, start: int, end: int | None) -> int | None:
        """Of a character at or after `start`: normalizers may leave characters without a token."""
        if end is None:
            end = self._encoding.token_to_chars(len(self.ids) - 1)[1] if len(self.ids) else 0
        for character in range(start, end):
            token: int | None = self._encoding.char_to_token(character)
            if token is not None:
                return token
        return None

    def _renamed(self, position: int) -> int:
        return position if self._places is None else _moved(position, self._places, 0, 1)

    def _original(self, position: int) -> int:
        return position if self._places is None else _moved(position, self._places, 1, 0)


def _moved(position: int, places: list[Span], source: int, target: int) -> int:
    """`position` in one text to the position in the other; inside a renamed token to its begin."""
    at = max(i for i, place in enumerate(places) if place[source] <= position)
    moved = places[at][target] + position - places[at][source]
    return min(moved, places[at + 1][target]) if at + 1 < len(places) else moved
