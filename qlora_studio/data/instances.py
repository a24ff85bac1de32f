"""Instructions with instances: one record gives a conversation for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qlora_studio.data.chats import checked_chat
from qlora_studio.data.conversation import Message
from qlora_studio.data.fields import Fields
from qlora_studio.data.limits import MAX_PARTS, MAX_ROW_BYTES
from qlora_studio.data.pairs import pair
from qlora_studio.data.record import Conversation, RecordError, in_words, nested, text_of

END_MARK = "<|endoftext|>"
_NO_INPUT = "<noinput>"  # what Self-Instruct asks its generator to write where there is no input


def self_instruct(fields: Fields) -> tuple[Conversation, ...]:
    """instruction and instances[input, output]; or prompt and completion, as the set was finetuned on.

    Raises: RecordError, SpellingNeededError.
    """
    if "instances" in fields.map:
        return _conversations(fields, fields.needed_text("prompt"), fields.needed("instances"))
    answer = fields.needed("answer")
    if not isinstance(answer, str) or not answer.rstrip().endswith(END_MARK):
        return pair(fields)
    fields.notes.add("end_mark")
    answer = answer.rstrip().removesuffix(END_MARK).removeprefix(" ")
    return pair(Fields({**fields.record, fields.map["answer"]: answer}, fields.map, notes=fields.notes))


def unnatural_instructions(fields: Fields) -> tuple[Conversation, ...]:
    """instruction_with_input and output of each instance, as the QLoRA paper takes them.

    Where all are asked for the reworded instructions too. Raises: RecordError, SpellingNeededError.
    """
    instances = _list(fields.needed("instances"))
    reworded = fields.maybe("reformulations")
    if fields.all_answers and reworded is not None and reworded != "":
        instances = instances + _list(reworded)
    return _conversations(fields, fields.text("prompt"), instances)


def _conversations(fields: Fields, instruction: str, instances: Any) -> tuple[Conversation, ...]:
    found = []
    given = _list(instances)
    if len(given) > MAX_PARTS:
        raise RecordError(f"more than {MAX_PARTS:,} instances")
    for instance in given:
        notes: set[str] = set()
        answer = _answer(instance, notes)
        if answer.strip():
            prompt = Message("user", _prompt(instance, instruction, notes))
            found.append(checked_chat([prompt, Message("assistant", answer)], notes))
        else:
            fields.notes.add("part_left_out")
    if not found:
        raise RecordError("no answer")
    first = replace(found[0], notes=found[0].notes | fields.notes)  # what is said of the record is said once
    return (first, *found[1:])


def _answer(instance: Any, notes: set[str]) -> str:
    if not isinstance(instance, dict):
        raise RecordError(f"an instance is {in_words(instance)}, not an object")
    answer = instance.get("output")
    return "" if answer is None else text_of(answer, "an output", notes)


def _prompt(instance: Mapping[str, Any], instruction: str, notes: set[str]) -> str:
    whole = instance.get("instruction_with_input")
    if whole is not None:
        return text_of(whole, "an instruction with its input", notes)
    given = instance.get("input")
    text = "" if given is None else text_of(given, "an input", notes)
    if text and instruction.count("{INPUT}") * len(text) > MAX_ROW_BYTES:
        raise RecordError(f"longer than {MAX_ROW_BYTES / 1e6:.0f} MB")
    if "{INPUT}" in instruction:
        return instruction.replace("{INPUT}", text)
    parts = (instruction, "" if text.strip().lower() == _NO_INPUT else text)
    return "\n\n".join(part for part in parts if part.strip())


def _list(value: Any) -> list[Any]:
    value = nested(value)
    if not isinstance(value, list):
        raise RecordError(f"the instances are {in_words(value)}, not a list")
    return value
