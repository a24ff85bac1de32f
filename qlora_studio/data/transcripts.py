"""Whole talks in one text, with marks that say who speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qlora_studio.data.chats import ROLE_OF, checked_chat
from qlora_studio.data.conversation import Message
from qlora_studio.data.fields import Fields
from qlora_studio.data.record import Conversation, RecordError

# format -> what stands before a turn; the group is who speaks. None takes long for any text
MARKS: Mapping[str, re.Pattern[str]] = {
    "hh_rlhf": re.compile(r"(?:\A\s*|\n[ \t\r]{0,9}\n[ \t]{0,9})(Human|Assistant):"),
    "chip2": re.compile(r"(?:\A|\n)[ \t]*<(human|bot)>:", re.IGNORECASE),
    "oasst": re.compile(r"###[ \t]*(Human|Assistant):"),  # the Guanaco set: OASST's best paths as one text
}


def transcript(fields: Fields, format: str) -> tuple[Conversation, ...]:
    """Raises: RecordError, SpellingNeededError."""
    text = fields.needed_text("text")
    return (checked_chat(talk(text, format, fields.notes), fields.notes),)


def talk(text: str, format: str, notes: set[str]) -> list[Message]:
    """Its turns, without the blanks around them, which belong to the marks. Raises: RecordError."""
    preface, *rest = MARKS[format].split(text)
    if not rest:
        raise RecordError("the text has no mark of a speaker" if text.strip() else "no text")
    messages = [
        Message(ROLE_OF[speaker.lower()], said.strip())
        for speaker, said in zip(rest[::2], rest[1::2], strict=True)
    ]
    if preface.strip():
        notes.add("preface")
        messages.insert(0, Message("system", preface.strip()))
    return messages


def is_transcript(value: Any, format: str) -> bool:
    """Whether both sides speak in it."""
    if not isinstance(value, str):
        return False
    speakers = {ROLE_OF[speaker.lower()] for speaker in MARKS[format].findall(value)}
    return speakers >= {"user", "assistant"}
