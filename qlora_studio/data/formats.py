"""The formats that rows come in: which columns show them, and how a record of each becomes a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qlora_studio.data.chats import chat, checked_chat, tool_definitions
from qlora_studio.data.conversation import Message
from qlora_studio.data.record import Conversation, RecordError, in_words, named, text_of

CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat")
FIELDS = ("prompt", "input", "answer", "system", "history", "text", "messages", "tools", "chosen", "rejected")

NOT_BUILT = {
    "preference": "preference rows (chosen and rejected); preference training isn't built yet",
    "kto": "rated answers (KTO); preference training isn't built yet",
    "self_instruct": "instructions with instances (Self-Instruct); this format isn't built yet",
    "unnatural_instructions": "Unnatural Instructions; this format isn't built yet",
    "oasst": "a message tree (OASST); this format isn't built yet",
    "hh_rlhf": "transcripts with two endings (HH-RLHF); preference training isn't built yet",
    "chip2": "<human>: and <bot>: in one text (Chip2); this format isn't built yet",
    "longform": "LongForm; this format isn't built yet",
    "flan": "FLAN; this format isn't built yet",
}


@dataclass(frozen=True)
class Layout:
    """How records are read: the format, and which column gives which field (`FIELDS`)."""

    format: str
    map: Mapping[str, str]


Convert = Callable[[Any], Conversation]


def converter(layout: Layout) -> Convert:
    """What turns a record of this layout into a conversation. It raises: RecordError, SpellingNeededError."""
    convert = _CONVERTERS[layout.format]

    def of(record: Any) -> Conversation:
        if layout.format == "text" and isinstance(record, str):
            return _text({"text": record}, {"text": "text"})
        if not isinstance(record, dict):
            raise RecordError(f"{in_words(record)} in place of an object with columns")
        return convert(record, layout.map)

    return of


def _messages(record: Mapping[str, Any], columns: Mapping[str, str]) -> Conversation:
    turns = _required(record, columns["messages"])
    return chat(turns, _optional(record, columns, "system"), _optional(record, columns, "tools"))


def _pair(record: Mapping[str, Any], columns: Mapping[str, str]) -> Conversation:
    prompt, answer = _required(record, columns["prompt"]), _required(record, columns["answer"])
    tools = _optional(record, columns, "tools")
    if isinstance(prompt, list) and isinstance(answer, list):  # of turns, as in TRL's conversational rows
        return chat(prompt + answer, _optional(record, columns, "system"), tools)
    notes: set[str] = set()
    messages = []
    system = _optional_text(record, columns, "system", notes)
    if system.strip():
        messages.append(Message("system", system))
    messages += _history(_optional(record, columns, "history"), notes)
    prompt = text_of(prompt, named(columns["prompt"]), notes)
    context = _optional_text(record, columns, "input", notes)
    if context.strip():
        prompt = f"{prompt}\n\n{context}" if prompt.strip() else context
    messages.append(Message("user", prompt))
    messages.append(Message("assistant", text_of(answer, named(columns["answer"]), notes)))
    if not messages[-1].content.strip():
        raise RecordError("no answer")
    return checked_chat(messages, notes, tool_definitions(tools))


def _history(history: Any, notes: set[str]) -> list[Message]:
    if history is None or history == "":
        return []
    if not isinstance(history, list):
        raise RecordError(f"the history is {in_words(history)}, not a list")
    messages = []
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RecordError("a part of the history is no pair of prompt and answer")
        messages.append(Message("user", text_of(pair[0], "a prompt of the history", notes)))
        messages.append(Message("assistant", text_of(pair[1], "an answer of the history", notes)))
    return messages


def _text(record: Mapping[str, Any], columns: Mapping[str, str]) -> Conversation:
    notes: set[str] = set()
    text = text_of(_required(record, columns["text"]), named(columns["text"]), notes)
    if not text.strip():
        raise RecordError("no text")
    return Conversation(text=text, notes=frozenset(notes))


def _required(record: Mapping[str, Any], column: str) -> Any:
    if column not in record:
        raise RecordError(f"no column {named(column)}")
    return record[column]


def _optional(record: Mapping[str, Any], columns: Mapping[str, str], field: str) -> Any:
    return record.get(columns[field]) if field in columns else None


def _optional_text(record: Mapping[str, Any], columns: Mapping[str, str], field: str, notes: set[str]) -> str:
    value = _optional(record, columns, field)
    return "" if value is None else text_of(value, named(columns[field]), notes)


_CONVERTERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, str]], Conversation]] = {
    "messages": _messages,
    "sharegpt": _messages,
    "alpaca": _pair,
    "prompt_completion": _pair,
    "question_answer": _pair,
    "text": _text,
}
READ = tuple(_CONVERTERS)
