"""Calls of tools in a chat, and the definitions of the tools it may call, in the shapes that files have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qlora_studio.data.conversation import ToolCall
from qlora_studio.data.record import RecordError, in_words, nested
from qlora_studio.data.strict_json import JsonError, Spelled, parse_json


def tool_calls(turn: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """Of an assistant's turn, in today's shape or in the older one of a single call. Raises: RecordError."""
    calls = turn.get("tool_calls")
    if calls is None and turn.get("function_call") is not None:
        calls = [turn["function_call"]]
    if calls is None or calls == "":
        return ()
    if isinstance(calls, str):
        return calls_in_text(calls)
    if not isinstance(calls, list):
        raise RecordError(f"tool_calls is {in_words(calls)}, not a list")
    return tuple(_tool_call(call) for call in calls)


def calls_in_text(text: str) -> tuple[ToolCall, ...]:
    """One call or a list of them as JSON. Raises: RecordError."""
    try:
        calls = parse_json(text.encode("utf-8"))
    except JsonError:
        raise RecordError("a tool call is not valid JSON") from None
    return tuple(_tool_call(call) for call in (calls if isinstance(calls, list) else [calls]))


def tool_definitions(tools: Any) -> str:
    """As JSON text; empty where there are none. Raises: RecordError."""
    if tools is None or tools == "" or tools == []:
        return ""
    if isinstance(tools, str):
        try:
            tools = parse_json(tools.encode("utf-8"))
        except JsonError:
            raise RecordError("the tools are not valid JSON") from None
    if isinstance(tools, dict) and tools:
        tools = [tools]
    if isinstance(tools, list):
        tools = [nested(tool) for tool in tools]
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RecordError("the tools are no list of objects")
    return compact(tools) if tools else ""


def compact(value: Any) -> str:
    """As JSON on one line, for a model to read."""
    return json.dumps(_numbers(value), ensure_ascii=False, separators=(", ", ": "))


def _numbers(value: Any) -> Any:
    """With numbers again where a record was read with their spelling."""
    if isinstance(value, Spelled):
        return int(value) if value.lstrip("-").isdigit() else float(value)
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return value


def _tool_call(call: Any) -> ToolCall:
    call = nested(call)
    if not isinstance(call, dict):
        raise RecordError(f"a tool call is {in_words(call)}, not an object")
    function = nested(call.get("function", call))
    if isinstance(function, str):  # the name alone, with the arguments beside it
        function = call | {"name": function}
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise RecordError("a tool call has no name")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = function.get("parameters")
    identity = call.get("id")
    return ToolCall(
        name=name,
        arguments=arguments
        if isinstance(arguments, str) and not isinstance(arguments, Spelled)
        else compact({} if arguments is None else arguments),
        id=identity if isinstance(identity, str) else "",
    )
