"""Several answers with a rank or a score for each, as ELI5, Stack Exchange and Nectar have them."""

from __future__ import annotations

from typing import Any

from qlora_studio.data.strict_json import Spelled
from qlora_studio.data.turn_content import first_of

_TEXTS = ("text", "answer", "response", "value", "body", "content")
_BEST_LOW = ("rank", "overall_rank")
_BEST_HIGH = ("score", "overall_score", "pm_score", "upvotes", "votes", "rating")


def best_first(value: Any) -> list[Any] | None:
    """The answers from the best to the worst, equal ones in their order; None where not all are ranked.

    value: objects with a text and a number each, or {"text": [...], "score": [...]}
    """
    answers = _of_columns(value) if isinstance(value, dict) else value
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        return None
    texts = [first_of(answer, _TEXTS) for answer in answers]
    numbers = _numbers(answers)
    if len(answers) < 2 or None in texts or numbers is None:
        return None
    return [texts[place] for place in sorted(range(len(texts)), key=numbers.__getitem__)]


def _of_columns(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    lists = {key: items for key, items in value.items() if isinstance(items, list)}
    text = next((key for key in _TEXTS if key in lists), None)
    if text is None:
        return None
    whole = {key: items for key, items in lists.items() if len(items) == len(lists[text])}
    return [dict(zip(whole, items, strict=True)) for items in zip(*whole.values(), strict=True)]


def _numbers(answers: list[dict[str, Any]]) -> list[float] | None:
    """Of each answer one that is the lower the better it is."""
    for names, sign in ((_BEST_LOW, 1), (_BEST_HIGH, -1)):
        for name in names:
            found = [_number(answer.get(name)) for answer in answers]
            numbers = [sign * number for number in found if number is not None]
            if answers and len(numbers) == len(answers):
                return numbers
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Spelled):
        return None
    return float(value)
