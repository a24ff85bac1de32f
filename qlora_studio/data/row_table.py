"""Rows as columns of an Arrow table, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlora_studio.data.conversation import Message, ToolCall, shared_turns
from qlora_studio.data.record import Conversation, Place

_MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("more", pa.string()),  # JSON: what few messages have (`_More`)
    ]
)
_MESSAGES = pa.list_(_MESSAGE)
SCHEMA = pa.schema(
    [
        ("line", pa.int64()),
        ("file", pa.int16()),
        ("offset", pa.int64()),  # of the record in its file, as UTF-8; -1: there is no text of it
        ("bytes", pa.int64()),
        ("messages", _MESSAGES),
        ("rejected", _MESSAGES),  # of the chat with the worse answer: what follows the turns that both have
        ("shared", pa.int32()),  # how many turns both have, from the first; null: there is no worse answer
        ("label", pa.bool_()),  # whether the answer was rated good; null: it wasn't rated
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
    shared = [_shared(conversation) for conversation in conversations]
    worse = [
        conversation.rejected[both or 0 :] for conversation, both in zip(conversations, shared, strict=True)
    ]
    return _batch(
        np.array([place.line for place in places], dtype=np.int64),
        file,
        np.array([place.offset for place in places], dtype=np.int64),
        np.array([place.size for place in places], dtype=np.int64),
        messages=_lists_of([conversation.messages for conversation in conversations]),
        rejected=_lists_of(worse) if any(worse) else None,
        shared=pa.array(shared, pa.int32()),
        label=pa.array([conversation.label for conversation in conversations], pa.bool_()),
        tools=pa.array([conversation.tools or None for conversation in conversations], pa.string()),
        text=pa.array([conversation.text for conversation in conversations], pa.string()),
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
    messages = _lists(starts, roles, contents, pa.nulls(len(roles), pa.string()))
    return _batch(lines, file, offsets, sizes, messages=messages)


def chats_of(batch: Any) -> Iterator[tuple[tuple[Message, ...], tuple[Message, ...], bool | None]]:
    """Messages, those of the chat with the worse answer, and the rating of each row."""
    rejected = batch.column("rejected")
    none_rejected = batch.column("shared").null_count == len(rejected)
    worse = [()] * len(rejected) if none_rejected else _messages_of(rejected)
    columns = (batch.column(name).to_pylist() for name in ("shared", "label"))
    for messages, rest, shared, label in zip(
        _messages_of(batch.column("messages")), worse, *columns, strict=True
    ):
        yield messages, () if shared is None else messages[:shared] + rest, label


def utf_8_of(texts: Any) -> tuple[NDArray[np.int64], memoryview]:
    """Offsets [texts + 1] into the bytes of all texts."""
    _, offsets, text = texts.buffers()
    first, count = texts.offset, len(texts)
    numbers = np.frombuffer(offsets, dtype=np.int32)[first : first + count + 1].astype(np.int64)
    return numbers, memoryview(text) if text is not None else memoryview(b"")


def _messages_of(column: Any) -> Iterator[tuple[Message, ...]]:
    flat = column.flatten()
    columns = (flat.field(index).to_pylist() for index in range(len(_MESSAGE)))
    messages = [
        Message(role, content) if more is None else _message(role, content, _decode_more(more))
        for role, content, more in zip(*columns, strict=True)
    ]
    at = 0
    for length in column.value_lengths().to_pylist():
        yield tuple(messages[at : at + (length or 0)])
        at += length or 0


def _shared(conversation: Conversation) -> int | None:
    return shared_turns(conversation.messages, conversation.rejected) if conversation.rejected else None


def _batch(
    lines: NDArray[np.int64],
    file: int,
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    **columns: Any,
) -> Any:
    """columns: those of `SCHEMA` beside the first four; None, or not there: null in all rows."""
    rows = len(lines)
    columns |= {"line": lines, "file": np.full(rows, file, dtype=np.int16), "offset": offsets, "bytes": sizes}
    arrays = [
        pa.nulls(rows, field.type) if (column := columns.get(field.name)) is None else column
        for field in SCHEMA
    ]
    return pa.record_batch(
        [pa.array(array) if isinstance(array, np.ndarray) else array for array in arrays], schema=SCHEMA
    )


def _lists_of(chats: Sequence[Sequence[Message]]) -> Any:
    messages = [message for chat in chats for message in chat]
    return _lists(
        np.cumsum([0, *(len(chat) for chat in chats)], dtype=np.int32),
        pa.array([message.role for message in messages], pa.string()),
        pa.array([message.content for message in messages], pa.string()),
        pa.array([_more_text(message) for message in messages], pa.string()),
    )


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
