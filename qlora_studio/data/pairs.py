"""Prompts with an answer: instructions, questions, inputs with an output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qlora_studio.data.chats import ROLE_KEYS, checked_chat, messages_of
from qlora_studio.data.conversation import Message
from qlora_studio.data.fields import Fields
from qlora_studio.data.limits import MAX_PARTS
from qlora_studio.data.ranked_answers import best_first
from qlora_studio.data.record import Conversation, RecordError, in_words, named, nested, text_of
from qlora_studio.data.strict_json import Spelled
from qlora_studio.data.tool_calls import tool_definitions
from qlora_studio.data.turn_content import first_of

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def pair(fields: Fields) -> tuple[Conversation, ...]:
    """A conversation; several where the record has several answers and all are asked for.

    Raises: RecordError, SpellingNeededError.
    """
    before = before_answer(fields)
    tools = tool_definitions(fields.maybe("tools"))
    value = fields.needed("answer")
    if are_turns(value):
        return (checked_chat(before + messages_of(listed(value), fields.notes), fields.notes, tools),)
    answers = answers_of(value, fields)
    return tuple(
        checked_chat([*before, Message("assistant", answer)], set(fields.notes), tools) for answer in answers
    )


def answers_of(value: Any, fields: Fields) -> list[str]:
    """Different ones, the best first where they are ranked; one where not all are asked for.

    Raises: RecordError where there is none, SpellingNeededError.
    """
    answers = [text for text in _answers(value, fields) if text.strip()]
    if not answers:
        raise RecordError("no answer")
    return answers


def before_answer(fields: Fields) -> list[Message]:
    """System text, earlier turns and the prompt, each where there is one."""
    messages = []
    system = fields.text("system")
    if system.strip():
        messages.append(Message("system", system))
    messages += _history(fields.maybe("history"), fields.notes)
    if "prompt" not in fields.map:
        return messages
    prompt = fields.needed("prompt")
    if are_turns(prompt):
        return messages + messages_of(listed(prompt), fields.notes)
    messages.append(Message("user", _prompt(prompt, fields)))
    return messages


def are_turns(value: Any) -> bool:
    """Whether it is a turn with a role, or a list of them."""
    if isinstance(value, str):
        return False
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and first_of(first, ROLE_KEYS) is not None


def listed(value: Any) -> list[Any]:
    """A turn, or a list of them, as a list."""
    return value if isinstance(value, list) else [value]


def _prompt(value: Any, fields: Fields) -> str:
    """The prompt with its input below it; a passage that is asked about stands above."""
    prompt = "" if value is None else fields.as_text(value, "prompt")
    parts = [fields.text("context"), prompt, fields.text("input")]
    question = "\n\n".join([part for part in parts if part.strip()]) or prompt
    choices = [f"{label}. {text}" for label, text in _choices(fields)]
    return "\n".join([question, *choices]) if choices else question


def _answers(value: Any, fields: Fields) -> list[str]:
    if type(value) is str and "choices" not in fields.map and "context" not in fields.map:
        return [value]
    if isinstance(value, str) and "context" in fields.map:
        found = nested(value)  # any other answer in JSON is the text that is to be learned
        value = found if isinstance(found, dict) and found.keys() == {"text", "answer_start"} else value
    ranked = best_first(value)
    value = _text_in(value) if ranked is None else ranked
    if not isinstance(value, list):
        return [_answer(value, fields)]
    if len(value) > MAX_PARTS:
        raise RecordError(f"more than {MAX_PARTS:,} answers")
    texts = (_answer(_text_in(item), fields) for item in value if item is not None)
    answers = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(answers) > 1 and not fields.all_answers:
        fields.notes.add("several_answers" if ranked is None else "ranked_answers")
        answers = answers[:1]
    return answers


def _text_in(value: Any) -> Any:
    """Of {"text": ["...", "..."], "answer_start": [...]}, as SQuAD has it, and the like."""
    found = first_of(value, ("text", "value", "answer")) if isinstance(value, dict) else None
    return value if found is None else found


def _answer(value: Any, fields: Fields) -> str:
    """The number of a choice, from 0, becomes that choice's label."""
    notes: set[str] = set()
    answer = text_of(value, named(fields.map["answer"]), notes)
    choices = _choices(fields)
    number = answer.strip().lstrip("-").isdigit()
    said = any(answer.strip() in choice for choice in choices) and not _is_place(value, choices, fields)
    if not choices or not number or said:
        fields.notes.update(notes)
        return answer
    if not 0 <= int(answer) < len(choices):
        raise RecordError("the answer is the number of a choice that isn't there")
    fields.notes.add("choice_letter")
    return choices[int(answer)][0]


def _is_place(value: Any, choices: Sequence[tuple[str, str]], fields: Fields) -> bool:
    """A number beside choices that are texts, as MMLU has them: 0 is the first of "3", "0" and "1" too."""
    texts = nested(fields.maybe("choices"))
    if isinstance(texts, dict):
        texts = texts["text"] if isinstance(texts.get("text"), list) else list(texts.values())
    return (
        type(value) in (int, Spelled)
        and str(value) in map(str, range(len(choices)))
        and all(label != str(value) for label, _ in choices)
        and all(type(text) is str for text in texts)
    )


def _choices(fields: Fields) -> Sequence[tuple[str, str]]:
    """Label and text of each choice."""
    value = nested(fields.maybe("choices"))
    if value is None or value == "" or value == []:
        return ()
    labels: Any = None
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value, labels = value["text"], value.get("label")
    elif isinstance(value, dict):
        value, labels = list(value.values()), list(value)
    if not isinstance(value, list):
        raise RecordError(f"the choices are {in_words(value)}, not a list")
    if len(value) > len(_LETTERS):
        raise RecordError(f"more than {len(_LETTERS)} choices")
    texts = [text_of(text, "a choice", fields.notes) for text in value]
    if not isinstance(labels, list) or len(labels) != len(texts):
        labels = list(_LETTERS[: len(texts)])
    return list(zip([text_of(label, "a label", fields.notes) for label in labels], texts, strict=True))


def _history(history: Any, notes: set[str]) -> list[Message]:
    if history is None or history == "":
        return []
    history = nested(history)
    if not isinstance(history, list):
        raise RecordError(f"the history is {in_words(history)}, not a list")
    if any(isinstance(part, dict) for part in history):
        return messages_of(history, notes)
    messages = []
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RecordError("a part of the history is no pair of prompt and answer")
        messages.append(Message("user", text_of(pair[0], "a prompt of the history", notes)))
        messages.append(Message("assistant", text_of(pair[1], "an answer of the history", notes)))
    return messages
