"""One row as the trainer sees it: token ids, and how much each of them counts in the loss.

A row of preferences is two chats, one after the other, which don't see each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TokenizedRow:
    """Token ids with their loss weights.

    row:     index in the imported data set
    ids:     int32 [tokens]
    weights: float32 [tokens]; how much predicting this token counts, 0: it is context.
             The first is always 0: nothing stands before it that could predict it.
             Below 0: an answer that was rated bad (KTO).
    second:  where a second chat begins: the one with the worse answer (DPO, ORPO), or one whose answer
             belongs to another question (KTO), or the target of an encoder-decoder, which begins with
             the token that its decoder starts with. 0: there is none
    """

    row: int
    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    second: int = 0

    @property
    def learned_tokens(self) -> int:
        """How many tokens the loss counts."""
        return int(np.count_nonzero(self.weights))

    @property
    def weighs_both(self) -> bool:
        """Whether each of its two chats has a token that counts."""
        return bool(self.weights[: self.second].any() and self.weights[self.second :].any())


class TokenizedRows(Protocol):
    """Many of them, by index; whether they lie in memory or in a mapped file is their own affair."""

    lengths: NDArray[np.int32]  # tokens of each row

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TokenizedRow: ...


class RowsInMemory:
    """A list of tokenized rows."""

    def __init__(self, rows: list[TokenizedRow]) -> None:
        self._rows = rows
        self.lengths = np.array([len(row.ids) for row in rows], dtype=np.int32)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenizedRow:
        return self._rows[index]
