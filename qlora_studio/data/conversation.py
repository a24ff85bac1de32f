"""A row of data: a chat of turns, or a text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import msgspec


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an assistant asks a tool to do. `arguments` is JSON text, as it stood in the file."""

    name: str
    arguments: str = "{}"
    id: str = ""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat."""

    role: str  # system | user | assistant | tool
    content: str
    loss_weight: float | None = None
    name: str = ""  # of the tool or the speaker
    tool_calls: tuple[ToolCall, ...] = ()  # of an assistant
    tool_call_id: str = ""  # which call a tool answers
    reasoning: str = ""  # what the assistant thought before its answer

    @property
    def says_nothing(self) -> bool:
        """Whether there is neither text nor a call in it."""
        return not self.tool_calls and not self.content.strip()


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One imported row: a chat, which may be rated or have a worse ending beside it, or a text."""

    row: int  # index in the data set
    line: int  # of the file, from 1; of a Parquet file the row, from 1
    file: str = ""  # which of a folder's files; empty where there is one
    messages: tuple[Message, ...] = ()  # of a pair of answers: the chat with the better one
    rejected: tuple[Message, ...] = ()  # of a pair: the whole chat again, with the worse answer
    label: bool | None = None  # whether the answer was rated good; None: nobody rated it
    tools: str = ""  # the tools the chat may call: a JSON list of their definitions, as text
    text: str | None = None
    source: str | None = None  # the line as it stands in the file, at most 10,000 characters

    @property
    def shared_turns(self) -> int:
        """How many turns, from the first, the chats with the better and the worse answer have in common."""
        return shared_turns(self.messages, self.rejected)


def shared_turns(first: Sequence[Message], second: Sequence[Message]) -> int:
    """How many messages two chats have in common, from the first on."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
