"""How each format is known: the names of its columns, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from qlora_studio.data.chats import PAIRED_KEYS, ROLE_KEYS, turns_of
from qlora_studio.data.column_names import CHAT_COLUMNS, OPTIONAL, PLAIN_TEXT, SHAPES, SUMMARIES
from qlora_studio.data.instances import END_MARK
from qlora_studio.data.preference_rules import pairs_of_answers, rated, two_sides, waits_for_assistant
from qlora_studio.data.record import named, nested
from qlora_studio.data.sampled_rows import Candidate, SampledRows, plain_name
from qlora_studio.data.transcripts import MARKS, is_transcript

Rule = Callable[[SampledRows], Iterator[Candidate]]


def candidates(rows: SampledRows) -> Iterator[Candidate]:
    """The ways in which the rows can be read, the most telling first."""
    if rows.columns == (PLAIN_TEXT,):
        yield Candidate("text", {"text": PLAIN_TEXT}, f"The column {named(PLAIN_TEXT)} holds text as it is.")
        return
    rules: tuple[Rule, ...] = (
        *(_trees, _instances, _rated, pairs_of_answers, two_sides),
        *(_usual_chats, _usual_pairs, _any_chats, _texts),
    )
    found = [candidate for rule in rules for candidate in rule(rows)]
    yield from found or _last_resort(rows)


def complete(rows: SampledRows, format: str, chosen: Mapping[str, str]) -> dict[str, str] | None:
    """`chosen` with what it lacks of a shape, found by the usual names; None where it fits none."""
    for shape in SHAPES[format]:
        found = dict(chosen) | rows.find(_without(shape, chosen), chosen.values())
        if any(field not in found for field in shape if field not in ("source", "subset")):
            continue
        if shape.keys() <= chosen.keys():
            return found  # what isn't mapped is left out on purpose
        return found | rows.find(_without(OPTIONAL.get(format, {}), found), found.values())
    return None


def kind_of_turns(rows: SampledRows, column: str) -> str | None:
    """messages or sharegpt, where the column holds lists of turns."""
    kinds = {"messages": 0, "sharegpt": 0}
    for value in rows.values(column):
        turns = turns_of(value)
        first = turns[0] if isinstance(turns, list) and turns else None
        if isinstance(first, dict):
            keys = {key for key, held in first.items() if held is not None}
            sharegpt = "from" in keys and "value" in keys
            kinds["sharegpt"] += sharegpt
            kinds["messages"] += not sharegpt and bool(keys & {*ROLE_KEYS})
    best = max(kinds, key=lambda kind: kinds[kind])
    return best if kinds[best] else None


def transcripts_in(rows: SampledRows, column: str) -> list[str]:
    """The formats whose marks of speakers most of the texts in the column have."""
    return [format for format in MARKS if rows.mostly(column, partial(is_transcript, format=format))]


def _without(names: Mapping[str, str], fields: Mapping[str, str]) -> dict[str, str]:
    return {field: words for field, words in names.items() if field not in fields}


def _trees(rows: SampledRows) -> Iterator[Candidate]:
    message = rows.find(SHAPES["oasst"][0])
    if len(message) == len(SHAPES["oasst"][0]):
        found = message | rows.find(OPTIONAL["oasst"])
        yield Candidate("oasst", found, "Each row is a message that names the one it replies to.")
    column = rows.by_name.get("prompt")
    if column and rows.mostly(column, _is_tree):
        found = {"tree": column} | rows.find({"state": "tree_state"})
        yield Candidate("oasst", found, f"{named(column)} holds a message with its replies.")


def _is_tree(value: Any) -> bool:
    value = nested(value)
    return isinstance(value, dict) and "text" in value and ("replies" in value or "message_id" in value)


def _instances(rows: SampledRows) -> Iterator[Candidate]:
    column, prompt = rows.by_name.get("instances"), rows.by_name.get("instruction")
    lists = [nested(value) for value in rows.values(column)] if column else []
    firsts = [value[0] for value in lists if isinstance(value, list) and value and isinstance(value[0], dict)]
    if column and any("instruction_with_input" in first for first in firsts):
        found = {"instances": column} | rows.find(OPTIONAL["unnatural_instructions"])
        reason = f"{named(column)} holds instructions with their inputs and outputs."
        yield Candidate("unnatural_instructions", found, reason)
    elif column and prompt and firsts:
        reason = f"{named(column)} holds inputs and outputs for the instruction."
        yield Candidate("self_instruct", {"prompt": prompt, "instances": column}, reason)


def _rated(rows: SampledRows) -> Iterator[Candidate]:
    yield from rated(rows, chain(_usual_chats(rows), _usual_pairs(rows)))


def _usual_chats(rows: SampledRows) -> Iterator[Candidate]:
    usual = [rows.by_name[name] for name in CHAT_COLUMNS if name in rows.by_name]
    for column in usual:
        yield from _chats(rows, column)
        if rows.mostly(column, _are_unnamed):
            reason = f"The column {named(column)} holds lists of what a user and an assistant say in turn."
            yield _chat("messages", rows, column, reason)


def _any_chats(rows: SampledRows) -> Iterator[Candidate]:
    for column in rows.columns:
        yield from _chats(rows, column)


def _chats(rows: SampledRows, column: str) -> Iterator[Candidate]:
    kind = kind_of_turns(rows, column)
    if kind:
        spelled = "from and value" if kind == "sharegpt" else "role and content"
        yield _chat(kind, rows, column, f"The column {named(column)} holds lists of turns with {spelled}.")


def _chat(kind: str, rows: SampledRows, column: str, reason: str) -> Candidate:
    return Candidate(kind, {"messages": column} | rows.find(OPTIONAL[kind], (column,)), reason)


def _are_unnamed(value: Any) -> bool:
    """Texts in turn, or objects with a key for each of the two who speak."""
    turns = turns_of(value)
    if not isinstance(turns, list) or not turns:
        return False
    if isinstance(turns[0], dict):
        return {PAIRED_KEYS.get(key.strip().lower()) for key in turns[0]} >= {"user", "assistant"}
    return len(turns) > 1 and all(isinstance(turn, str) for turn in turns)


def _usual_pairs(rows: SampledRows) -> Iterator[Candidate]:
    for format in ("alpaca", "question_answer", "flan", "longform", "prompt_completion"):
        shapes = (found for shape in SHAPES[format] if len(found := rows.find(shape)) == len(shape))
        for found in shapes:
            yield from _pairs(rows, format, found["prompt"], found["answer"])


def _pairs(rows: SampledRows, format: str, prompt: str, answer: str) -> Iterator[Candidate]:
    fields = {"prompt": prompt, "answer": answer}
    has = f"It has {named(prompt)} and {named(answer)}"
    if format == "prompt_completion" and rows.mostly(answer, _ends_in_mark):
        yield Candidate("self_instruct", fields, f"{has}, which ends in {END_MARK} as in Self-Instruct.")
    if format == "prompt_completion" and rows.mostly(prompt, waits_for_assistant):
        yield Candidate("hh_rlhf", fields, f"{has}; the first is a talk with Human: and Assistant: in it.")
    beside = rows.find(OPTIONAL.get(format, {}), fields.values())
    yield Candidate(format, fields | beside, f"{has}.", sure=plain_name(answer) not in SUMMARIES)


def _ends_in_mark(value: Any) -> bool:
    return isinstance(value, str) and value.rstrip().endswith(END_MARK)


def _texts(rows: SampledRows) -> Iterator[Candidate]:
    if sum(isinstance(record, str) for record in rows.records) * 2 > len(rows.records):
        yield Candidate("text", {}, "Each record is a text.")
    names = SHAPES["text"][0]["text"].split()
    for column in [rows.by_name[name] for name in names if name in rows.by_name]:
        if len(rows.columns) > 1 and not rows.mostly(column, _is_text):
            continue
        for format in transcripts_in(rows, column):
            reason = f"{named(column)} is a talk with {_MARKS_IN_WORDS[format]}."
            yield Candidate(format, {"text": column}, reason)
        yield Candidate("text", {"text": column}, f"The column {named(column)} holds text.")


_MARKS_IN_WORDS = {
    "chip2": "<human>: and <bot>:",
    "oasst": "### Human: and ### Assistant:, as the Guanaco set has them",
    "hh_rlhf": "Human: and Assistant:",
}


def _last_resort(rows: SampledRows) -> Iterator[Candidate]:
    texts: Sequence[str] = [column for column in rows.columns if rows.mostly(column, _is_text)]
    if any(rows.mostly(column, _is_nested) for column in rows.columns):
        return  # what is in there may be the answers
    if len(texts) == 1:
        reason = f"{named(texts[0])} is the only column with text."
        yield Candidate("text", {"text": texts[0]}, reason, sure=False)
    if len(texts) == 2:
        reason = f"There are two columns with text: {named(texts[0])} is taken for the prompt, "
        reason += f"{named(texts[1])} for the answer."
        yield Candidate("prompt_completion", {"prompt": texts[0], "answer": texts[1]}, reason, sure=False)


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict) and bool(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
