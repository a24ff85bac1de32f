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
    plain = _are_plain(batch)
    if plain.all():
        return _of_plain_chats(batch)
    return [
        digest
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE)
        for digest in _one_by_one(batch.slice(start, _ROWS_AT_ONCE))
    ]


def _are_plain(batch: Any) -> NDArray[np.bool_]:
    """Rows of messages alone, that have role and content alone."""
    plain = np.ones(batch.num_rows, dtype=bool)
    for name in _BESIDE:
        plain &= batch.column(name).is_null().to_numpy(zero_copy_only=False)
    more = batch.column("messages").flatten().field("more")
    plain &= more.null_count == len(more)
    return plain


def _of_plain_chats(batch: Any) -> list[bytes]:
    messages = batch.column("messages")
    flat = messages.flatten()
    offsets, text = utf_8_of(flat.field("content"))
    starts = np.concatenate([[0], messages.value_lengths().to_numpy(zero_copy_only=False).cumsum()])
    starts = starts.astype(np.int64)
    seeds = seeds_of(np.diff(offsets), _codes(flat.field("role")), starts).tolist()
    bounds = offsets[starts].tolist()
    return [
        xxhash.xxh3_128_digest(text[start:end], seed)
        for start, end, seed in zip(bounds, bounds[1:], seeds, strict=False)
    ]


def _codes(roles: Any) -> NDArray[np.int64]:
    encoded = pc.dictionary_encode(roles)
    known = np.array([ROLE_CODES[role] for role in encoded.dictionary.to_pylist()], dtype=np.int64)
    codes: NDArray[np.int64] = known[encoded.indices.to_numpy()]
    return codes


def _one_by_one(batch: Any) -> Iterator[bytes]:
    texts, tools = batch.column("text").to_pylist(), batch.column("tools").to_pylist()
    for (messages, rejected, label), text, tool in zip(chats_of(batch), texts, tools, strict=True):
        yield digest_of(Conversation(messages, rejected, label, text, tool or ""))
