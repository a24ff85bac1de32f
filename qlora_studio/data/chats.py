"""Chats: turns with known roles in a known order, however a file spells them (D8)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from qlora_studio.data.conversation import Message, ToolCall
from qlora_studio.data.record import Conversation, RecordError, in_words, named, text_of
from qlora_studio.data.strict_json import JsonError, Spelled, parse_json

ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance")

_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter", "customer", "instruction"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "ai", "model", "chatbot", "agent"),
    "tool": ("tool", "function", "observation", "ipython", "function_response", "tool_response"),
    "call": ("function_call", "tool_call"),  # an assistant's turn that is a call
}
ROLE_OF = {alias: role for role, aliases in _ROLES.items() for alias in aliases}
ROLES = ("system", "user", "assistant", "tool")


def chat(turns: Any, system: Any = None, tools: Any = None) -> Conversation:
    """A list of turns as a file has it, checked. Raises: RecordError, SpellingNeededError."""
    notes: set[str] = set()
    turns = turns_of(turns)
    if not isinstance(turns, list):
        raise RecordError(f"the turns are {in_words(turns)}, not a list")
    messages = [_message(turn, notes) for turn in turns]
    if system is not None:
        text = text_of(system, "the system text", notes)
        if text.strip():
            if messages and messages[0].role == "system":
                raise RecordError("two system texts")
            messages.insert(0, Message("system", text))
    return checked_chat(messages, notes, tool_definitions(tools))


def turns_of(value: Any) -> Any:
    """A list that stands as JSON text in a cell, as that list; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return parse_json(value.encode("utf-8"))
        except JsonError:
            return value
    return value


def checked_chat(messages: Sequence[Message], notes: set[str], tools: str = "") -> Conversation:
    """The messages, if they make a chat to learn from. Raises: RecordError."""
    if messages and messages[0].role == "system" and not messages[0].content.strip():
        messages = messages[1:]
        notes.add("empty_system")
    problem = order_problem(tuple(message.role for message in messages))
    if problem:
        raise RecordError(problem)
    answers = [message for message in messages if message.role == "assistant"]
    empty = sum(answer.says_nothing for answer in answers)
    if empty == len(answers):
        raise RecordError("no answer")
    if empty:
        notes.add("empty_answer")
    if any(message.role == "user" and not message.content.strip() for message in messages):
        notes.add("empty_prompt")
    if messages[-1].role != "assistant":
        notes.add("open_end")
    return Conversation(messages=tuple(messages), tools=tools, notes=frozenset(notes))


@lru_cache(maxsize=4096)
def order_problem(roles: tuple[str, ...]) -> str | None:
    """What breaks the order: system first, user and assistant in turn, tools behind an assistant."""
    if not roles:
        return "no turns"
    before = "system"
    for index, role in enumerate(roles):
        if role == "system":
            if index:
                return "a system turn behind the first turn"
            continue
        if role == "user" and before == "user":
            return "two user turns in a row"
        if role == "user" and before == "tool":
            return "a user turn right behind a tool's"
        if role == "assistant" and before == "assistant":
            return "two assistant turns in a row"
        if role == "assistant" and before == "system":
            return "an assistant turn before the first user turn"
        if role == "tool" and before not in ("assistant", "tool"):
            return "a tool turn without an assistant turn before it"
        before = role
    return None if "assistant" in roles else "no answer"


def _message(turn: Any, notes: set[str]) -> Message:
    if not isinstance(turn, dict):
        raise RecordError(f"a turn is {in_words(turn)}, not an object")
    role = _role(turn, notes)
    content = _content(_first(turn, CONTENT_KEYS), role, turn, notes)
    if role == "call":
        return Message("assistant", "", tool_calls=_calls_in_text(content))
    if role != "assistant":
        return Message(
            role,
            content,
            loss_weight=_loss_weight(turn),
            name=_optional(turn, ("name",), notes),
            tool_call_id=_optional(turn, ("tool_call_id",), notes),
        )
    return Message(
        role,
        content,
        loss_weight=_loss_weight(turn),
        name=_optional(turn, ("name",), notes),
        tool_calls=_tool_calls(turn),
        reasoning=_optional(turn, ("reasoning_content", "reasoning", "thinking"), notes),
    )


def _role(turn: Mapping[str, Any], notes: set[str]) -> str:
    spelling = _first(turn, ROLE_KEYS)
    if not isinstance(spelling, str):
        raise RecordError("a turn has no role")
    role = ROLE_OF.get(spelling) or ROLE_OF.get(spelling.strip().lower())
    if role is None:
        raise RecordError(f"unknown role {named(spelling)}")
    if role != spelling:
        notes.add("role_alias")
    return role


def _content(value: Any, role: str, turn: Mapping[str, Any], notes: set[str]) -> str:
    if isinstance(value, list):
        return "".join(_part(part, notes) for part in value)
    if value is None:
        if role == "assistant":
            return ""  # an answer that is only a call, or none: what that means is decided for the whole chat
        raise RecordError(f"a {role} turn has no content")
    if isinstance(value, dict) and role in ("tool", "call"):
        return _compact(value)
    return text_of(value, "the content of a turn", notes)


def _part(part: Any, notes: set[str]) -> str:
    if isinstance(part, dict):
        kind = part.get("type", "text")
        if kind != "text":
            raise RecordError(f"a turn has a part of type {named(str(kind))}; only text can be learned")
        part = _first(part, ("text", "value", "content"))
    return text_of(part, "a part of a turn", notes)


def _loss_weight(turn: Mapping[str, Any]) -> float | None:
    weight = _first(turn, ("loss_weight", "weight"))
    if weight is None:
        return None
    if isinstance(weight, Spelled):
        weight = float(weight)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise RecordError("a loss_weight is no number from 0 on")
    return float(weight)


def _tool_calls(turn: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    calls = turn.get("tool_calls")
    if calls is None and turn.get("function_call") is not None:
        calls = [turn["function_call"]]
    if calls is None:
        return ()
    if isinstance(calls, str):
        return _calls_in_text(calls)
    if not isinstance(calls, list):
        raise RecordError(f"tool_calls is {in_words(calls)}, not a list")
    return tuple(_tool_call(call) for call in calls)


def _calls_in_text(text: str) -> tuple[ToolCall, ...]:
    try:
        calls = parse_json(text.encode("utf-8"))
    except JsonError:
        raise RecordError("a tool call is not valid JSON") from None
    return tuple(_tool_call(call) for call in (calls if isinstance(calls, list) else [calls]))


def _tool_call(call: Any) -> ToolCall:
    if not isinstance(call, dict):
        raise RecordError(f"a tool call is {in_words(call)}, not an object")
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise RecordError("a tool call has no name")
    arguments = _first(function, ("arguments", "parameters"))
    identity = call.get("id")
    return ToolCall(
        name=name,
        arguments=arguments
        if isinstance(arguments, str)
        else _compact({} if arguments is None else arguments),
        id=identity if isinstance(identity, str) else "",
    )


def tool_definitions(tools: Any) -> str:
    """As JSON text; empty where there are none. Raises: RecordError."""
    if tools is None or tools == "" or tools == []:
        return ""
    if isinstance(tools, str):
        try:
            tools = parse_json(tools.encode("utf-8"))
        except JsonError:
            raise RecordError("the tools are not valid JSON") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RecordError("the tools are no list of objects")
    return _compact(tools) if tools else ""


def _optional(turn: Mapping[str, Any], keys: tuple[str, ...], notes: set[str]) -> str:
    value = _first(turn, keys)
    return "" if value is None else text_of(value, keys[0], notes)


def _first(values: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        if (value := values.get(key)) is not None:
            return value
    return None


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
