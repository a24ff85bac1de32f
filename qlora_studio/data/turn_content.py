"""What one turn of a chat says, and how much it counts, in the shapes that files have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qlora_studio.data.record import RecordError, named, text_of
from qlora_studio.data.strict_json import Spelled
from qlora_studio.data.tool_calls import compact

_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHTS = ("thinking", "reasoning")
_OF_PART = ("text", "value", "content")


def content_of(value: Any, role: str, notes: set[str]) -> tuple[str, str]:
    """Text and what was thought before it. Raises: RecordError, SpellingNeededError."""
    if type(value) is str:
        return value, ""
    if value is None:
        if role == "user":
            raise RecordError("a user turn has no content")
        return "", ""  # an answer that is only a call, or none: what that means is decided for the whole chat
    if role in ("tool", "call") and isinstance(value, dict | list) and not _has_text_parts(value):
        return compact(value), ""
    if isinstance(value, dict) and isinstance(value.get("parts"), list):
        value = value["parts"]
    if isinstance(value, dict) and first_of(value, _OF_PART) is not None:
        value = [value]
    if not isinstance(value, list):
        return text_of(value, "the content of a turn", notes), ""
    said: list[str] = []
    thought: list[str] = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        (thought if kind in _THOUGHTS else said).append(_part(part, kind, notes))
    return "".join(said), "".join(thought)


def loss_weight(turn: Mapping[str, Any]) -> float | None:
    """What the file says the turn counts in the loss; None: nothing. Raises: RecordError."""
    masked = turn.get("masked")
    if isinstance(masked, bool) and masked:
        return 0.0
    weight = first_of(turn, ("loss_weight", "weight"))
    if weight is None:
        taught = first_of(turn, ("train", "loss", "trainable"))
        return float(taught) if isinstance(taught, bool) else None
    if isinstance(weight, Spelled):
        weight = float(weight)
    if not isinstance(weight, bool | int | float) or not 0 <= weight < math.inf:
        raise RecordError("a loss_weight is no number from 0 on")
    return float(weight)


def first_of(values: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """The first of these that is there and not null."""
    for key in keys:
        if (value := values.get(key)) is not None:
            return value
    return None


def _has_text_parts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, dict) and part.get("type") in _TEXT_PARTS for part in value
    )


def _part(part: Any, kind: Any, notes: set[str]) -> str:
    if not isinstance(part, dict):
        return text_of(part, "a part of a turn", notes)
    if kind not in _TEXT_PARTS and kind not in _THOUGHTS:
        raise RecordError(f"a turn has a part of type {named(str(kind))}; only text can be learned")
    text = first_of(part, (*_THOUGHTS, *_OF_PART) if kind in _THOUGHTS else _OF_PART)
    return "" if text is None else text_of(text, "a part of a turn", notes)
