"""A row of data: a chat of turns, or a text."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat."""

    role: str  # system | user | assistant | tool
    content: str
    loss_weight: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One imported row: a chat, a text, or a pair of answers."""

    row: int  # index in the data set
    line: int  # of the file, from 1
    messages: tuple[Message, ...] = ()
    text: str | None = None
    source: str | None = None  # the line as it stands in the file, at most 10,000 characters
