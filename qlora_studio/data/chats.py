"""Chats: turns with known roles, however a file spells them (D8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from qlora_studio.data.conversation import Message
from qlora_studio.data.record import Conversation, RecordError, in_words, named, nested, text_of
from qlora_studio.data.shown_branch import shown_branch
from qlora_studio.data.tool_calls import calls_in_text, tool_calls, tool_definitions
from qlora_studio.data.turn_content import content_of, first_of, loss_weight

ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance", "parts")

_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter", "customer", "instruction"),
    "assistant": (
        *("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "ai", "model", "chatbot", "agent"),
        *("claude", "gemini", "gpt4", "gpt-4", "llm"),
    ),
    "tool": ("tool", "function", "observation", "ipython", "function_response", "tool_response"),
    "call": ("function_call", "tool_call"),  # an assistant's turn that is a call
}
ROLE_OF = {alias: role for role, aliases in _ROLES.items() for alias in aliases}
ROLES = ("system", "user", "assistant", "tool")
# Keys of a turn that hold what a user, and what the assistant says, where no role is named
PAIRED_KEYS = {key: role for role in ("user", "assistant") for key in _ROLES[role]} | {
    **dict.fromkeys(("input", "prompt", "question", "query"), "user"),
    **dict.fromkeys(("output", "response", "answer", "completion"), "assistant"),
}
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def chat(turns: Any, system: Any = None, tools: Any = None) -> Conversation:
    """A list of turns as a file has it, checked. Raises: RecordError, SpellingNeededError."""
    notes: set[str] = set()
    messages = messages_of(turns, notes)
    if system is not None:
        text, _ = content_of(system, "system", notes)
        if text.strip() and not (messages and messages[0].role == "system" and messages[0].content == text):
            messages.insert(0, Message("system", text))
    return checked_chat(messages, notes, tool_definitions(tools))


def messages_of(turns: Any, notes: set[str]) -> list[Message]:
    """The turns of a list, or of a JSON text of one. Raises: RecordError, SpellingNeededError."""
    turns = turns_of(turns)
    if isinstance(turns, str) and turns.lstrip()[:2] in ("[{", "['"):
        raise RecordError("the turns are a text that is no JSON")
    if not isinstance(turns, list):
        raise RecordError(f"the turns are {in_words(turns)}, not a list")
    if len(turns) > 1 and all(isinstance(turn, str) for turn in turns):
        notes.add("unnamed_turns")
        return [Message(("user", "assistant")[at % 2], text) for at, text in enumerate(turns)]
    return [message for turn in turns for message in _messages(turn, notes)]


def turns_of(value: Any) -> Any:
    """A list that stands as JSON text in a cell or as a tree, as that list; anything else as it is."""
    found = nested(value)
    if isinstance(found, dict) and (branch := shown_branch(found)) is not None:
        return branch
    return found if isinstance(found, list) else value


def checked_chat(messages: Sequence[Message], notes: set[str], tools: str = "") -> Conversation:
    """The messages, if they make a chat to learn from. Raises: RecordError."""
    roles = tuple([message.role for message in messages])
    if "system" in roles:
        messages = one_system_first(messages, notes)
        roles = tuple([message.role for message in messages])
    if not messages:
        raise RecordError("no turns")
    notes |= oddities(roles)
    asked = roles.index("user") if "user" in roles else 0
    answers = [message for message in messages[asked:] if message.role == "assistant"]
    empty = sum(answer.says_nothing for answer in answers)
    if empty == len(answers):
        raise RecordError("no answer")
    if empty:
        notes.add("empty_answer")
    if "user" not in roles or any(m.role == "user" and not m.content.strip() for m in messages):
        notes.add("empty_prompt")
    if roles[-1] != "assistant":
        notes.add("open_end")
    return Conversation(messages=tuple(messages), tools=tools, notes=frozenset(notes))


def one_system_first(messages: Sequence[Message], notes: set[str]) -> list[Message]:
    """Templates know one system text, at the beginning. Empty ones say nothing."""
    kept = [message for message in messages if message.role != "system" or message.content.strip()]
    if len(kept) < len(messages):
        notes.add("empty_system")
    leading = next((at for at, message in enumerate(kept) if message.role != "system"), len(kept))
    if leading < 2:
        return kept
    notes.add("systems_joined")
    joined = "\n\n".join(message.content for message in kept[:leading])
    return [Message("system", joined), *kept[leading:]]


@lru_cache(maxsize=4096)
def oddities(roles: tuple[str, ...]) -> frozenset[str]:
    """Findings where it isn't: system first, user and assistant in turn, tools behind an assistant."""
    found = set()
    if "assistant" in roles[: roles.index("user") if "user" in roles else 0]:
        found.add("answer_first")
    for before, role in zip(("", *roles), roles, strict=False):
        if role == before and role != "tool":
            found.add("same_speaker")
        elif (
            (role == "system" and before)
            or (role == "tool" and before not in ("assistant", "tool"))
            or (role == "user" and before == "tool")
        ):
            found.add("odd_order")
    return frozenset(found)


def _messages(turn: Any, notes: set[str]) -> Iterator[Message]:
    """One; more where the keys of the turn are roles."""
    if not isinstance(turn, dict):
        raise RecordError(f"a turn is {in_words(turn)}, not an object")
    if first_of(turn, ROLE_KEYS) is None and (said := _said_by_roles(turn)):
        notes.add("unnamed_turns")
        for role, value in said:
            yield Message(role, text_of(value, "the content of a turn", notes))
    else:
        yield _message(turn, notes)


def _said_by_roles(turn: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Of {"human": ..., "assistant": ...} and the like: who says what."""
    said = ((PAIRED_KEYS.get(key.strip().lower(), ""), value) for key, value in turn.items())
    return [(role, value) for role, value in said if role and value is not None]


def _message(turn: Mapping[str, Any], notes: set[str]) -> Message:
    role = _role(turn, notes)
    content, thought = content_of(first_of(turn, CONTENT_KEYS), role, notes)
    if role == "call":
        return Message("assistant", "", loss_weight=loss_weight(turn), tool_calls=calls_in_text(content))
    answers = role == "assistant"
    thought = thought or (_optional(turn, _REASONING_KEYS, notes) if answers else "")
    return Message(
        role,
        content,
        loss_weight=loss_weight(turn),
        name=_optional(turn, ("name",), notes),
        tool_calls=tool_calls(turn) if answers else (),
        tool_call_id="" if answers else _optional(turn, ("tool_call_id",), notes),
        reasoning=thought,
    )


def _optional(turn: Mapping[str, Any], keys: tuple[str, ...], notes: set[str]) -> str:
    value = first_of(turn, keys)
    return "" if value is None else text_of(value, keys[0], notes)


def _role(turn: Mapping[str, Any], notes: set[str]) -> str:
    spelling = first_of(turn, ROLE_KEYS)
    if not isinstance(spelling, str):
        raise RecordError("a turn has no role")
    role = ROLE_OF.get(spelling) or ROLE_OF.get(spelling.strip().lower())
    if role is None:
        raise RecordError(f"unknown role {named(spelling)}")
    if role != spelling:
        notes.add("role_alias")
    return role
