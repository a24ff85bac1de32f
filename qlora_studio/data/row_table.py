"""Rows as columns of an Arrow table, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlora_studio.data.conversation import Message, ToolCall
from qlora_studio.data.record import Conversation, Place

_MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("more", pa.string()),  # JSON: what few messages have (`_More`)
    ]
)
SCHEMA = pa.schema(
    [
        ("line", pa.int64()),
        ("file", pa.int16()),
        ("offset", pa.int64()),  # of the record in its file, as UTF-8; -1: there is no text of it
        ("bytes", pa.int64()),
        ("messages", pa.list_(_MESSAGE)),
        ("tools", pa.string()),
        ("text", pa.string()),
    ]
)


class _More(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a message has beside role and content."""

    loss_weight: float | None = None
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: str = ""


_NOTHING_MORE = _More()
_decode_more = msgspec.json.Decoder(_More).decode


def batch_of_rows(conversations: Sequence[Conversation], places: Sequence[Place], file: int) -> Any:
    """A record batch of these rows, all from the same file."""
    messages = [message for conversation in conversations for message in conversation.messages]
    starts = np.cumsum([0, *(len(conversation.messages) for conversation in conversations)], dtype=np.int32)
    return _batch(
        np.array([place.line for place in places], dtype=np.int64),
        file,
        np.array([place.offset for place in places], dtype=np.int64),
        np.array([place.size for place in places], dtype=np.int64),
        _lists(
            starts,
            pa.array([message.role for message in messages], pa.string()),
            pa.array([message.content for message in messages], pa.string()),
            pa.array([_more_text(message) for message in messages], pa.string()),
        ),
        pa.array([conversation.tools or None for conversation in conversations], pa.string()),
        pa.array([conversation.text for conversation in conversations], pa.string()),
    )


def batch_of_plain_chats(
    lines: NDArray[np.int64],
    file: int,
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    starts: NDArray[np.int32],
    roles: Any,
    contents: Any,
) -> Any:
    """A record batch of rows whose messages have role and content only; `starts` [rows + 1] into these."""
    nothing = pa.nulls(len(lines), pa.string())
    messages = _lists(starts, roles, contents, pa.nulls(len(roles), pa.string()))
    return _batch(lines, file, offsets, sizes, messages, nothing, nothing)


def messages_of(column: Any) -> Iterator[tuple[Message, ...]]:
    """The messages of each row."""
    flat = column.flatten()
    columns = (flat.field(index).to_pylist() for index in range(len(_MESSAGE)))
    messages = [
        Message(role, content) if more is None else _message(role, content, _decode_more(more))
        for role, content, more in zip(*columns, strict=True)
    ]
    at = 0
    for length in column.value_lengths().to_pylist():
        yield tuple(messages[at : at + length])
        at += length


def _batch(
    lines: NDArray[np.int64],
    file: int,
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    messages: Any,
    tools: Any,
    texts: Any,
) -> Any:
    files = pa.array(np.full(len(lines), file, dtype=np.int16))
    columns = [pa.array(lines), files, pa.array(offsets), pa.array(sizes), messages, tools, texts]
    return pa.record_batch(columns, schema=SCHEMA)


def _lists(starts: NDArray[np.int32], roles: Any, contents: Any, more: Any) -> Any:
    structs = pa.StructArray.from_arrays([roles, contents, more], fields=list(_MESSAGE))
    return pa.ListArray.from_arrays(pa.array(starts), structs)


def _more_text(message: Message) -> str | None:
    more = _More(
        message.loss_weight, message.name, message.tool_calls, message.tool_call_id, message.reasoning
    )
    return None if more == _NOTHING_MORE else msgspec.json.encode(more).decode("utf-8")


def _message(role: str, content: str, more: _More) -> Message:
    return Message(
        role, content, more.loss_weight, more.name, more.tool_calls, more.tool_call_id, more.reasoning
    )
