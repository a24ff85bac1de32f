"""Which rows are kept for evaluation: a share of them, where equal prompts stay on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from qlora_studio.data.conversation import Row


def held_out_rows(rows: Iterable[Row], share: float, seed: int) -> NDArray[np.bool_]:
    """True for about `share` of the rows, by `seed` alone; at least one where two prompts differ."""
    prompts = np.array([_prompt_hash(row) for row in rows], dtype=np.uint64)
    different, groups, sizes = np.unique(prompts, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(different), dtype=bool)
    if share <= 0 or len(different) < 2:
        return chosen[groups]
    wanted = max(1, round(share * len(prompts)))
    order = np.random.Generator(np.random.PCG64([seed, _PURPOSE])).permutation(len(different))
    taken = np.cumsum(sizes[order])
    count = int(np.searchsorted(taken, wanted)) + 1
    chosen[order[: min(count, len(different) - 1)]] = True
    return chosen[groups]


def content_hash(row: Row) -> int:
    """Of all that a row says; equal rows have the same."""
    parts = [row.text or "", row.tools]
    for message in row.messages:
        parts += [message.role, message.content, *(call.name + call.arguments for call in message.tool_calls)]
    return _hash(parts)


_PURPOSE = 1  # another order than that of an epoch with this seed


def _prompt_hash(row: Row) -> int:
    """Of what stands before the first answer to a question; a text's own beginning."""
    if row.text is not None:
        return _hash([row.text])
    parts: list[str] = []
    for message in row.messages:
        if message.role == "assistant" and "user" in parts[::2]:
            break
        parts += [message.role, message.content]
    return _hash(parts)


def _hash(parts: list[str]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "little")
