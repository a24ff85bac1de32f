"""One record of a file, and why it may not become a row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from qlora_studio.data.conversation import Message
from qlora_studio.data.strict_json import JsonError, Spelled, parse_json


class RecordError(ValueError):
    """Why a record is skipped, in a few words that start in lower case; the same words for the same cause."""


class LeftOutError(RecordError):
    """The record is sound, and its format itself leaves it out: nobody need be asked about it."""


class SpellingNeededError(Exception):
    """A number stands where text belongs: the record must be read again with numbers as they are spelled."""


@dataclass(frozen=True, slots=True)
class Place:
    """Number of a record's line, and where its text stands in the file in bytes; offset -1: nowhere."""

    line: int
    offset: int = -1
    size: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it came: a value, or why there is none. `json` is its text where it is JSON."""

    value: Any
    place: Place
    json: bytes | None = None


@dataclass(frozen=True)
class Conversation:
    """What a record says, as in `Row`; `notes` are the kinds of findings that it gives (`findings.py`)."""

    messages: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    text: str | None = None
    tools: str = ""
    notes: frozenset[str] = frozenset()

    @property
    def characters(self) -> int:
        """Of all texts together."""
        messages = self.messages + self.rejected
        return sum(len(message.content) for message in messages) + len(self.text or "")


def text_of(value: Any, what: str, notes: set[str]) -> str:
    """A text, a number or a truth value as text. Raises: RecordError for anything else."""
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is Spelled:
        notes.add("number")
        return str(value)
    if kind is bool:
        notes.add("number")
        return "true" if value else "false"
    if kind is int:
        notes.add("number")
        return str(value)
    if kind is float:
        raise SpellingNeededError
    raise RecordError(f"{what} is {in_words(value)}, not text")


def chat_of(value: Any) -> Any:
    """A list of messages that stands alone as a row's messages; anything else as it is."""
    if isinstance(value, list) and value and all(map(_is_message, value)):
        return {"messages": value}
    return value


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and (item.keys() >= {"role", "content"} or item.keys() >= {"from", "value"})


def nested(value: Any) -> Any:
    """A list or an object that stands as JSON text in a cell, as what it is; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return parse_json(value.encode("utf-8"))
        except JsonError:
            return value
    return value


def spelled(value: Any) -> Any:
    """`value` with its numbers as JSON spells them."""
    if isinstance(value, float):
        return Spelled(json.dumps(value))
    if isinstance(value, list):
        return [spelled(item) for item in value]
    if isinstance(value, dict):
        return {key: spelled(item) for key, item in value.items()}
    return value


def in_words(value: Any) -> str:
    """What kind of value it is."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, Spelled | int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bytes):
        return "bytes that are no UTF-8"
    return type(value).__name__


def named(name: str) -> str:
    """A name from outside as it stands in a reason: short, in quotes."""
    return repr(name if len(name) <= 60 else name[:59] + "…")
