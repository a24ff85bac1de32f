"""Pairs of a better and a worse answer, and answers that are rated good or bad."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import takewhile
from typing import Any

from qlora_studio.data.chats import checked_chat, messages_of, one_system_first, turns_of
from qlora_studio.data.conversation import Message
from qlora_studio.data.fields import Fields
from qlora_studio.data.pairs import answers_of, are_turns, before_answer, listed, pair
from qlora_studio.data.record import Conversation, RecordError, in_words, named, nested, text_of
from qlora_studio.data.tool_calls import tool_definitions
from qlora_studio.data.transcripts import MARKS, talk
from qlora_studio.data.turn_content import first_of

NEITHER_PREFERRED = "neither answer is preferred"

_GOOD = {"true", "yes", "1", "1.0", "+1", "good", "up", "thumbs_up", "👍", "like", "desirable", "chosen"}
_BAD = {"false", "no", "0", "0.0", "-1", "-1.0", "bad", "down", "thumbs_down", "👎", "dislike", "undesirable"}
_OF_SHP = {"1": 0, "0": 1}  # Stanford Human Preferences: 1 where A is preferred
_NEITHER = ("tie", "both", "neither", "equal", "same", "draw", "none", "no_preference")


def preference(fields: Fields) -> tuple[Conversation, ...]:
    """chosen and rejected, or two answers and which of them is better.

    Raises: RecordError, SpellingNeededError.
    """
    before, tools = _before(fields)
    better, worse = _sides(fields)
    notes = set(fields.notes)
    chosen = _with_answer(before, better, notes)
    rejected = _with_answer(before, worse, set())
    return (_pair_of(chosen, rejected, notes, tools),)


def hh_rlhf(fields: Fields) -> tuple[Conversation, ...]:
    """Two transcripts with different endings, or one prompt and its endings. Raises: RecordError."""
    notes = fields.notes
    before: list[Message] = []
    if "prompt" in fields.map:
        before = talk(fields.needed_text("prompt"), "hh_rlhf", notes)
        if before[-1].says_nothing and before[-1].role == "assistant":  # "Assistant:" waits for the answer
            before.pop()
    if "text" in fields.map:
        return (checked_chat(_transcript(before, fields.needed_text("text"), notes), notes),)
    if "answer" in fields.map:
        answers = answers_of(fields.needed("answer"), fields)
        return tuple(checked_chat(_transcript(before, answer, notes), set(notes)) for answer in answers)
    better = _transcript(before, fields.needed_text("chosen"), notes)
    worse = _transcript(before, fields.needed_text("rejected"), set())
    return (_pair_of(better, worse, notes, ""),)


def kto(fields: Fields) -> tuple[Conversation, ...]:
    """A chat, or a prompt and its answer, and whether that is good.

    Raises: RecordError, SpellingNeededError.
    """
    value = fields.needed("label")
    label = rating(value)
    if label is None:
        raise RecordError(f"{named(fields.map['label'])} is {in_words(value)} that says neither good nor bad")
    if "messages" in fields.map:
        messages = messages_of(fields.needed("messages"), fields.notes)
        before, tools = before_answer(fields), tool_definitions(fields.maybe("tools"))
        rated: tuple[Conversation, ...] = (checked_chat(before + messages, fields.notes, tools),)
    else:
        rated = pair(fields)
    notes = frozenset() if label else frozenset({"rated_bad"})
    return tuple(replace(found, label=label, notes=found.notes | notes) for found in rated)


def rating(value: Any) -> bool | None:
    """True for good; None for what is no rating."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, str | int | float):
        return None
    word = str(value).strip().lower().replace(" ", "_")
    return word in _GOOD if word in _GOOD | _BAD else None


def preferred(value: Any, first: str, second: str) -> int:
    """0 where `value` names the column `first`, or the end of its name that the other hasn't; 1 for `second`.

    Raises: RecordError where it names neither of them.
    """
    words = _word(value)
    if value is None or words.startswith(_NEITHER) or words == "":
        raise RecordError(NEITHER_PREFERRED)
    names = [_word(first), _word(second)]
    if names == ["human_ref_a", "human_ref_b"] and words in _OF_SHP:
        return _OF_SHP[words]
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*names, strict=False)))
    for at, name in enumerate(names):
        end = name[same:]
        if words == name or (end and (words == end or words.endswith(f"_{end}"))):
            return at
    raise RecordError(f"the preference {named(words)} names neither {named(first)} nor {named(second)}")


def _before(fields: Fields) -> tuple[list[Message], str]:
    """What both chats begin with, and the tools they may call."""
    tools = fields.maybe("tools")
    context = nested(fields.maybe("prompt"))
    if isinstance(context, dict) and isinstance(context.get("messages"), list):
        tools = tools or context.get("tools")
        without = {field: column for field, column in fields.map.items() if field != "prompt"}
        before = before_answer(replace(fields, map=without)) + messages_of(context["messages"], fields.notes)
    else:
        before = before_answer(fields)
    if "messages" in fields.map:
        before += messages_of(fields.needed("messages"), fields.notes)
    return before, tool_definitions(tools)


def _sides(fields: Fields) -> tuple[Any, Any]:
    """The better answer and the worse one."""
    if "chosen" in fields.map:
        return fields.needed("chosen"), fields.needed("rejected")
    both = fields.needed("first"), fields.needed("second")
    if "better" in fields.map:
        at = preferred(fields.needed("better"), fields.map["first"], fields.map["second"])
    else:
        scores = _score(fields.needed("first_score")), _score(fields.needed("second_score"))
        if scores[0] == scores[1]:
            raise RecordError(NEITHER_PREFERRED)
        at = int(scores[1] > scores[0])
    return both[at], both[1 - at]


def _with_answer(before: list[Message], side: Any, notes: set[str]) -> list[Message]:
    """The whole chat; `side` may be an answer, turns that go on, or the chat from its beginning."""
    value = turns_of(side)
    if not are_turns(value) and not (isinstance(value, list) and value):
        value = first_of(value, ("content", "value", "text")) if isinstance(value, dict) else value
        text = "" if value is None else text_of(value, "an answer", notes)
        return [*before, Message("assistant", text)]
    turns = messages_of(listed(value), notes)
    spoken = [message for message in turns if message.role != "system"]
    if not spoken or spoken[0].role != "user" or all(message.role == "system" for message in before):
        return before + turns
    question = next(message for message in before if message.role != "system")
    if question.content.strip() != spoken[0].content.strip():
        notes.add("prompt_unused")
    systems = [message for message in before if message.role == "system"]
    return turns if turns[0].role == "system" else systems + turns


def _transcript(before: list[Message], text: str, notes: set[str]) -> list[Message]:
    if not before or MARKS["hh_rlhf"].match(text):
        return talk(text, "hh_rlhf", notes)
    return [*before, Message("assistant", text.strip())]


def _pair_of(chosen: list[Message], rejected: list[Message], notes: set[str], tools: str) -> Conversation:
    better = checked_chat(chosen, notes, tools)
    if better.messages[-1].role == "assistant" and better.messages[-1].says_nothing:
        raise RecordError("no answer")
    worse = tuple(one_system_first(rejected, set()))
    answers = [message for message in worse if message.role == "assistant"]
    if not answers:
        raise RecordError("no worse answer")
    found = set()
    if answers[-1].says_nothing:
        found.add("empty_rejected")
    if worse == better.messages:
        found.add("equal_pair")
    return replace(better, rejected=worse, notes=better.notes | found)


def _score(value: Any) -> float:
    try:
        score = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        score = math.nan
    if math.isnan(score):
        raise RecordError("a score is no number")
    return score


def _word(value: Any) -> str:
    """Of a verdict, which may be a number: 1.0 is 1."""
    word = "" if value is None else str(value).strip().lower().replace(" ", "_").replace("-", "_")
    return re.sub(r"^(\d{1,9})\.0{1,9}$", r"\1", word)
