"""The formats that rows come in, and how a record of each becomes conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from qlora_studio.data.chats import chat
from qlora_studio.data.fields import Fields
from qlora_studio.data.instances import self_instruct, unnatural_instructions
from qlora_studio.data.pairs import pair
from qlora_studio.data.preferences import hh_rlhf, kto, preference
from qlora_studio.data.record import Conversation, RecordError, in_words, named
from qlora_studio.data.transcripts import transcript


@dataclass(frozen=True)
class Layout:
    """How records are read: the format, and which column gives which field (`layout_rules.SHAPES`).

    all_answers: where a record holds several answers, wordings or paths, each of them becomes a row
    """

    format: str
    map: Mapping[str, str]
    all_answers: bool = False

    @property
    def is_of_trees(self) -> bool:
        """Records are messages that name each other, or trees of them: `message_trees.py` reads them."""
        return self.format == "oasst" and ("tree" in self.map or "id" in self.map)


Convert = Callable[[Any], tuple[Conversation, ...]]


def converter(layout: Layout) -> Convert:
    """What turns a record of this layout into conversations. It raises: RecordError, SpellingNeededError."""
    convert = _CONVERTERS[layout.format]
    columns, all_answers = dict(layout.map), layout.all_answers
    media = columns.get("media")

    def of(record: Any) -> tuple[Conversation, ...]:
        if layout.format == "text" and isinstance(record, str):
            return _text(Fields({"text": record}, {"text": "text"}))
        if layout.format == "text" and not columns:
            raise RecordError(f"{in_words(record)} in place of a text")
        if not isinstance(record, dict):
            raise RecordError(f"{in_words(record)} in place of an object with columns")
        if media is not None and _shows(record.get(media)):
            raise RecordError(f"{named(media)} isn't empty; only text can be learned")
        return convert(Fields(record, columns, all_answers))

    return of


def _shows(media: Any) -> bool:
    """Whether there are images or sounds beside the text."""
    return any(_shows(item) for item in media) if isinstance(media, list) else media not in (None, "", {})


def _messages(fields: Fields) -> tuple[Conversation, ...]:
    return (chat(fields.needed("messages"), fields.maybe("system"), fields.maybe("tools")),)


def _text(fields: Fields) -> tuple[Conversation, ...]:
    text = fields.needed_text("text")
    if not text.strip():
        raise RecordError("no text")
    return (Conversation(text=text, notes=frozenset(fields.notes)),)


_CONVERTERS: dict[str, Callable[[Fields], tuple[Conversation, ...]]] = {
    "messages": _messages,
    "sharegpt": _messages,
    "alpaca": pair,
    "prompt_completion": pair,
    "question_answer": pair,
    "text": _text,
    "flan": pair,
    "longform": pair,
    "self_instruct": self_instruct,
    "unnatural_instructions": unnatural_instructions,
    "chip2": partial(transcript, format="chip2"),
    "oasst": partial(transcript, format="oasst"),  # its trees come in another way (`Layout.is_of_trees`)
    "hh_rlhf": hh_rlhf,
    "preference": preference,
    "kto": kto,
}
READ = tuple(_CONVERTERS)
