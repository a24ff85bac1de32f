"""Rows whose answer ends in a number, as GSM8K's do: asked anew, and compared by the number alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from qlora_studio.data.prepared import PreparedRows
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.engine.greedy import continue_together

MARK = "####"  # before the number in each answer of GSM8K
MOST_ASKED = 64  # rows; writing takes a hundred times as long as reading
_TOGETHER = 16  # replies written at once
_SPARE_TOKENS = 16  # that a reply may have over twice the length of the row's own answer
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class NumberQuestion:
    """A row's prompt and the number that must come out. most_tokens: in which the reply must be complete."""

    prompt: tuple[int, ...]
    number: str
    most_tokens: int


def number_questions(rows: PreparedRows, decode: Decode) -> list[NumberQuestion]:
    """Of many rows some, evenly spread. None where not every one of them has a number."""
    count = min(len(rows.validation), MOST_ASKED)
    questions = []
    for index in np.linspace(0, len(rows.validation) - 1, count).round().astype(int):
        question = _question(rows.validation[int(index)], decode)
        if question is None:
            return []
        questions.append(question)
    return questions


def right_numbers(
    model: PreTrainedModel,
    questions: Sequence[NumberQuestion],
    rows: PreparedRows,
    decode: Decode,
    stopped: Callable[[], bool],
) -> Iterator[tuple[int, int]]:
    """How many were answered so far by the likeliest reply, and how many of them right."""
    answered = right = 0
    for group in _of_like_length(questions):
        most_tokens = max(question.most_tokens for question in group)
        prompts = [question.prompt for question in group]
        replies = continue_together(model, prompts, most_tokens, rows.info.stop_ids, stopped)
        for question, reply in zip(group, replies, strict=True):
            right += number_in(decode(reply)) == question.number
        answered += len(group)
        yield answered, right


def number_in(text: str) -> str | None:
    """What stands after the last mark, without commas and idle zeros."""
    _, mark, after = text.rpartition(MARK)
    found = _NUMBER.match(after.strip().removeprefix("$")) if mark else None
    if found is None:
        return None
    number = found[0].replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def _question(row: TokenizedRow, decode: Decode) -> NumberQuestion | None:
    """Where a single stretch of the row is learned: what stands before it is the prompt."""
    learned = np.flatnonzero(row.weights)
    begin, end = int(learned[0]), int(learned[-1]) + 1
    if begin == 0 or end - begin != len(learned):
        return None
    number = number_in(decode(row.ids[begin:end].tolist()))
    if number is None:
        return None
    return NumberQuestion(tuple(row.ids[:begin].tolist()), number, 2 * len(learned) + _SPARE_TOKENS)


def _of_like_length(questions: Sequence[NumberQuestion]) -> Iterator[list[NumberQuestion]]:
    """Prompts of one length can be answered together without padding."""
    by_length: dict[int, list[NumberQuestion]] = defaultdict(list)
    for question in questions:
        by_length[len(question.prompt)].append(question)
    for _, alike in sorted(by_length.items()):
        for start in range(0, len(alike), _TOGETHER):
            yield alike[start : start + _TOGETHER]
