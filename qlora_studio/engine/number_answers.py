"""Rows whose answer ends in a number, as GSM8K's do: asked anew, and compared by the number alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from qlora_studio.config.run_config import WRITTEN_TOGETHER
from qlora_studio.data.prepared import PreparedRows
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.engine.greedy import continue_together

MARK = "####"  # before the number in each answer of GSM8K
MOST_ASKED = 64  # rows after a run; writing takes a hundred times as long as reading
_SPARE_TOKENS = 16  # that a reply may have over twice the length of the row's own answer
_SPOKEN_WORDS = 3
_LONGEST_SHOWN = 100  # characters of a question
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class NumberQuestion:
    """A row's prompt and the number that must come out.

    most_tokens: in which the reply must be complete
    row:         index in the imported data set
    text:        a line to name the question by
    """

    prompt: tuple[int, ...]
    number: str
    most_tokens: int
    row: int
    text: str


@dataclass(frozen=True)
class TokensWritten:
    """`tokens` of at most `most_tokens` of each reply to `count` questions from number `first` on."""

    first: int
    count: int
    tokens: int
    most_tokens: int


def number_questions(
    rows: PreparedRows, decode: Decode, most_asked: int = MOST_ASKED
) -> list[NumberQuestion]:
    """Of many rows some, evenly spread. None where not every one of them has a number."""
    count = min(len(rows.validation), most_asked)
    questions = []
    for index in np.linspace(0, len(rows.validation) - 1, count).round().astype(int):
        question = _question(rows.validation[int(index)], decode)
        if question is None:
            return []
        questions.append(question)
    return questions


def answered_numbers(
    model: PreTrainedModel,
    questions: Sequence[NumberQuestion],
    rows: PreparedRows,
    decode: Decode,
) -> Generator[TokensWritten, None, list[str | None]]:
    """The number in the likeliest reply to each question. Whoever listens may stop at any token."""
    answers: list[str | None] = [None] * len(questions)
    for first, places in _of_like_length(questions):
        group = [questions[place] for place in places]
        most_tokens = max(question.most_tokens for question in group)
        prompts = [question.prompt for question in group]
        writing = continue_together(model, prompts, most_tokens, rows.info.stop_ids)
        while True:
            try:
                written = next(writing)
            except StopIteration as finished:
                replies: list[list[int]] = finished.value
                break
            yield TokensWritten(first, len(group), written, most_tokens)
        for place, reply in zip(places, replies, strict=True):
            answers[place] = number_in(decode(reply[: questions[place].most_tokens]))
    return answers


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
    prompt = row.ids[:begin].tolist()
    most_tokens = 2 * len(learned) + _SPARE_TOKENS
    return NumberQuestion(tuple(prompt), number, most_tokens, row.row, question_line(decode(prompt)))


def question_line(prompt: str) -> str:
    """To name a question by: the last line that says something, not the name of who speaks next."""
    lines = [line.strip() for line in prompt.splitlines() if line.strip()]
    spoken = [line for line in lines if len(line.split()) >= _SPOKEN_WORDS] or lines or [""]
    return spoken[-1][:_LONGEST_SHOWN]


def _of_like_length(questions: Sequence[NumberQuestion]) -> Iterator[tuple[int, list[int]]]:
    """Places of those answered together, and the number of the first: little of them is padding."""
    by_length = sorted(
        range(len(questions)),
        key=lambda place: (questions[place].most_tokens, len(questions[place].prompt)),
    )
    for start in range(0, len(by_length), WRITTEN_TOGETHER):
        yield start, by_length[start : start + WRITTEN_TOGETHER]
