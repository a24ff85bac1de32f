"""When two rows are equal: 128 bits over all that is learned from, however the file spells it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from qlora_studio.data.record import Conversation

ROLE_CODES = {"system": 1, "user": 2, "assistant": 3, "tool": 4}
_TEXT_CODE = 5
_EXTRAS_CODE = 6

_MASK = (1 << 64) - 1
_OF_LENGTH = 0x9E3779B97F4A7C15
_OF_ROLE = 0xC2B2AE3D27D4EB4F
_OF_POSITION = 0xD6E8FEB86659FD93  # odd, so that its powers modulo 2^64 all differ for very long


def digest_of(conversation: Conversation) -> bytes:
    """Over the UTF-8 of all texts in their order; who says which part of it is in the seed."""
    if conversation.text is not None:
        parts, codes = [conversation.text.encode("utf-8")], [_TEXT_CODE]
    else:
        parts = [message.content.encode("utf-8") for message in conversation.messages]
        codes = [ROLE_CODES[message.role] for message in conversation.messages]
    extras = _extras(conversation)
    if extras:
        parts.append(extras)
        codes.append(_EXTRAS_CODE)
    return xxhash.xxh3_128_digest(b"".join(parts), _seed([len(part) for part in parts], codes))


def seeds_of(
    lengths: NDArray[np.int64], codes: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """The seed of each row, for many at once.

    lengths, codes: bytes and `ROLE_CODES` of every message of all rows, one row behind the other
    starts:         index of each row's first message, and behind the last row's last; no row is empty
    """
    per_row = np.diff(starts)
    positions = np.arange(len(lengths)) - np.repeat(starts[:-1], per_row)
    powers = np.full(int(per_row.max(initial=1)), _OF_POSITION, dtype=np.uint64).cumprod(dtype=np.uint64)
    terms = lengths.astype(np.uint64) * np.uint64(_OF_LENGTH) + codes.astype(np.uint64) * np.uint64(_OF_ROLE)
    terms *= powers[positions]
    return np.add.reduceat(terms, starts[:-1])


def _seed(lengths: Sequence[int], codes: Sequence[int]) -> int:
    seed, power = 0, 1
    for length, code in zip(lengths, codes, strict=True):
        power = power * _OF_POSITION & _MASK
        seed += (length * _OF_LENGTH + code * _OF_ROLE) * power
    return seed & _MASK


def _extras(conversation: Conversation) -> bytes:
    """What messages have beside role and content, and what a row has; nothing where all have nothing."""
    per_message = [
        (message.loss_weight, message.name, message.tool_calls, message.tool_call_id, message.reasoning)
        for message in conversation.messages
    ]
    beside = (conversation.tools, conversation.rejected, conversation.label)
    if beside == ("", (), None) and all(extra == (None, "", (), "", "") for extra in per_message):
        return b""
    return msgspec.msgpack.encode((beside, per_message))
