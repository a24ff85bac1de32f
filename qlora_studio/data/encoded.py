"""The tokens of one text, and which characters of it each of them stands for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Span = tuple[int, int]  # characters of a text, the second one not included


class Encoded(Protocol):
    """The tokens of one text."""

    @property
    def ids(self) -> NDArray[np.int32]:
        """int32 [tokens]."""

    def tokens_of(self, start: int, end: int) -> slice:
        """The tokens that stand for any of the characters from `start` to before `end`."""

    def spans(self) -> list[Span]:
        """The characters of the text that each token stands for."""


class EncodedWithOffsets:
    """Placed by the library; `ids_of` and `places` where the text was renamed before it was encoded."""

    def __init__(
        self, encoding: Any, ids_of: dict[int, int] | None = None, places: list[Span] | None = None
    ) -> None:
        self._encoding = encoding
        ids = encoding.ids
        if ids_of:
            ids = [ids_of.get(id, id) for id in ids]
        self.ids = array_of(ids)
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


class EncodedOnly:
    """Of a text of which hardly anybody asks where its tokens stand: it is encoded again for that."""

    def __init__(self, ids: list[int], text: str, tokenizer: Tokenizer) -> None:
        self.ids = array_of(ids)
        self._text = text
        self._tokenizer = tokenizer

    def tokens_of(self, start: int, end: int) -> slice:
        """The tokens that stand for any of the characters from `start` to before `end`."""
        return self._placed.tokens_of(start, end)

    def spans(self) -> list[Span]:
        """The characters of the text that each token stands for."""
        return self._placed.spans()

    @cached_property
    def _placed(self) -> EncodedWithOffsets:
        return EncodedWithOffsets(self._tokenizer.encode(self._text))


class EncodedByBytes:
    """Placed by the UTF-8 bytes of each token, one token behind the other."""

    def __init__(self, ids: NDArray[np.int32], begins: NDArray[np.int32], ends: NDArray[np.int32]) -> None:
        """`begins`, `ends`: int32 [tokens], the first character of each, and the one after its last."""
        self.ids = ids
        self._begins = begins
        self._ends = ends

    def tokens_of(self, start: int, end: int) -> slice:
        """The tokens that stand for any of the characters from `start` to before `end`."""
        if start >= end:
            return slice(0, 0)
        first = self._ends.searchsorted(start, "right")
        after = self._begins.searchsorted(end, "left")
        return slice(int(first), int(after))

    def spans(self) -> list[Span]:
        """The characters of the text that each token stands for."""
        return list(zip(self._begins.tolist(), self._ends.tolist(), strict=True))


def array_of(ids: Sequence[int]) -> NDArray[np.int32]:
    """int32 [tokens]."""
    return np.fromiter(ids, np.int32, len(ids))  # half the time of np.array


def _moved(position: int, places: list[Span], source: int, target: int) -> int:
    """`position` in one text to the position in the other; inside a renamed token to its begin."""
    at = max(i for i, place in enumerate(places) if place[source] <= position)
    moved = places[at][target] + position - places[at][source]
    return min(moved, places[at + 1][target]) if at + 1 < len(places) else moved
