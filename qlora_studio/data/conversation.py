"""A row of data: a chat of turns, or a text."""

from __future__ import annotations

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
    """One imported row: a chat, a text, or a pair of answers."""

    row: int  # index in the data set
    line: int  # of the file, from 1; of a Parquet file the row, from 1
    file: str = ""  # which of a folder's files; empty where there is one
    messages: tuple[Message, ...] = ()
    tools: str = ""  # the tools the chat may call: a JSON list of their definitions, as text
    text: str | None = None
    source: str | None = None  # the line as it stands in the file, at most 10,000 characters
