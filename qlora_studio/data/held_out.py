"""Which rows are kept for evaluation: a share, with equal prompts and near-equal rows on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from qlora_studio.data.conversation import Row


def held_out_rows(
    rows: Iterable[Row],
    share: float,
    seed: int,
    *,
    near: NDArray[np.int64] | None = None,
    seen: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """True for about `share` of the rows, by `seed` alone; at least one where two groups of them differ.

    near: int64 [rows], equal for rows that must stand on one side, whatever they ask
    seen: False for rows that are on neither side; None: there are none
    """
    prompts = np.array([_prompt_hash(row) for row in rows], dtype=np.uint64)
    if seen is None:
        seen = np.ones(len(prompts), dtype=bool)
    if share <= 0 or not len(prompts):
        return np.zeros(len(prompts), dtype=bool)
    _, groups = np.unique(prompts, return_inverse=True)
    if near is not None:
        _, groups = np.unique(_joined(groups, near), return_inverse=True)
    sizes = np.bincount(groups, weights=seen).astype(np.int64)
    there = np.flatnonzero(sizes)
    chosen = np.zeros(len(sizes), dtype=bool)
    if len(there) > 1:
        order = np.random.Generator(np.random.PCG64([seed, _PURPOSE])).permutation(there)
        wanted = max(1, round(share * int(seen.sum())))
        count = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
        chosen[order[: min(count, len(there) - 1)]] = True
    apart: NDArray[np.bool_] = chosen[groups] & seen
    return apart


def content_hash(row: Row) -> int:
    """Of all that a row says; equal rows have the same."""
    parts = [row.text or "", row.tools]
    for message in row.messages:
        parts += [message.role, message.content, *(call.name + call.arguments for call in message.tool_calls)]
    return _hash(parts)


def _joined(groups: NDArray[np.int64], near: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number for rows that are linked by a group of either kind."""
    parent = np.arange(int(groups.max()) + 1)

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = int(parent[group])
        return group

    _, first, of_near = np.unique(near, return_index=True, return_inverse=True)
    others = first[of_near]
    for row in np.flatnonzero(others != np.arange(len(near))).tolist():
        one, two = sorted((root(int(groups[row])), root(int(groups[others[row]]))))
        parent[two] = one
    return np.array([root(group) for group in range(len(parent))], dtype=np.int64)[groups]


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
