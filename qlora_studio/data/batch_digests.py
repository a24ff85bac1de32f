"""The digests of rows that lie in record batches: equal ones are those that an import merges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from qlora_studio.data.record import Conversation
from qlora_studio.data.row_digest import ROLE_CODES, digest_of, seeds_of
from qlora_studio.data.row_table import chats_of, utf_8_of

_BESIDE = ("shared", "label", "tools", "text")
_ROWS_AT_ONCE = 1000


def digests_of(batch: Any) -> list[bytes]:
    """As `row_digest.digest_of` gives them, of each row of a batch."""
    if _holds_plain_chats(batch):
        return _of_plain_chats(batch)
    return [
        digest
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE)
        for digest in _one_by_one(batch.slice(start, _ROWS_AT_ONCE))
    ]


def digests_of_chats(contents: Any, codes: NDArray[np.int64], starts: NDArray[np.int64]) -> list[bytes]:
    """Of chats whose messages have role and content alone.

    contents, codes: texts and `ROLE_CODES` of every message of all chats, one chat behind the other
    starts:          index of each chat's first message, and behind the last chat's last; none is empty
    """
    offsets, text = utf_8_of(contents)
    seeds = seeds_of(np.diff(offsets), codes, starts).tolist()
    bounds = offsets[starts].tolist()
    return [
        xxhash.xxh3_128_digest(text[start:end], seed)
        for start, end, seed in zip(bounds, bounds[1:], seeds, strict=False)
    ]


def _holds_plain_chats(batch: Any) -> bool:
    """Whether its rows are messages alone, that have role and content alone."""
    more = batch.column("messages").flatten().field("more")
    beside = [batch.column(name) for name in _BESIDE]
    return all(column.null_count == len(column) for column in (more, *beside))


def _of_plain_chats(batch: Any) -> list[bytes]:
    messages = batch.column("messages")
    flat = messages.flatten()
    starts = np.concatenate([[0], messages.value_lengths().to_numpy(zero_copy_only=False).cumsum()])
    return digests_of_chats(flat.field("content"), _codes(flat.field("role")), starts.astype(np.int64))


def _codes(roles: Any) -> NDArray[np.int64]:
    encoded = pc.dictionary_encode(roles)
    known = np.array([ROLE_CODES[role] for role in encoded.dictionary.to_pylist()], dtype=np.int64)
    codes: NDArray[np.int64] = known[encoded.indices.to_numpy()]
    return codes


def _one_by_one(batch: Any) -> Iterator[bytes]:
    texts, tools = batch.column("text").to_pylist(), batch.column("tools").to_pylist()
    for (messages, rejected, label), text, tool in zip(chats_of(batch), texts, tools, strict=True):
        yield digest_of(Conversation(messages, rejected, label, text, tool or ""))
