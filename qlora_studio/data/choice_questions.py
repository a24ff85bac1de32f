"""Which rows ask for one of several letters, as MMLU's do, and what each may be answered with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlora_studio.data.prepared import PreparedRows
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.data.tokenizer import ModelTokenizer

_LONGEST_SHOWN = 100  # characters of a question
_LONGEST_ANSWER = 40
_CHOICE = re.compile(r"^[ \t]*\(?([A-Z])[.):][ \t]", re.MULTILINE)
_CHOICE_ANYWHERE = re.compile(r"(?<!\S)\(?([A-Z])[.):][ \t]")


@dataclass(frozen=True, eq=False)
class ChoiceQuestion:
    """row: index in the imported data set. prompt: all that stands before the letter.

    letters:    what can be chosen, from A on
    letter_ids: the token of each
    right:      the place of the right one
    text:       the line before the choices, to name the question by
    second:     as that of its row
    """

    row: int
    prompt: NDArray[np.int32]
    letters: str
    letter_ids: tuple[int, ...]
    right: int
    text: str
    second: int = 0


def choice_questions(rows: PreparedRows, tokenizer: ModelTokenizer) -> list[ChoiceQuestion]:
    """None where not every row is one: choices in lines from A on, and one of their letters as the answer.

    Of a tokenizer to which a line's end is a space, as T5's, the choices may stand anywhere.
    """
    questions = []
    for _, question in questions_or_why_not(rows, tokenizer):
        if isinstance(question, str):
            return []
        questions.append(question)
    return questions


def questions_or_why_not(
    rows: PreparedRows, tokenizer: ModelTokenizer
) -> Iterator[tuple[int, ChoiceQuestion | str]]:
    """(index in the imported data set, the question or why it asks for no letter) of each row."""
    has_lines = _keeps_lines(tokenizer)
    for place in range(len(rows.validation)):
        row = rows.validation[place]
        yield row.row, _question(row, rows.info.stop_ids, tokenizer, has_lines)


def _keeps_lines(tokenizer: ModelTokenizer) -> bool:
    (encoded,) = tokenizer.encode_rendered(["A\nB"])
    return "\n" in tokenizer.decode(encoded.ids.tolist())


def _question(
    row: TokenizedRow, stop_ids: tuple[int, ...], tokenizer: ModelTokenizer, has_lines: bool
) -> ChoiceQuestion | str:
    """Or why it is none. The last choices count: those before belong to examples."""
    learned = [int(at) for at in np.flatnonzero(row.weights) if int(row.ids[at]) not in stop_ids]
    spoken = [(at, text) for at in learned[:4] if (text := tokenizer.decode([int(row.ids[at])]).strip())]
    if not spoken or spoken[0][0] == 0:
        return "it has no question with an answer"
    at = spoken[0][0]
    prompt = row.ids[:at]
    asked = tokenizer.decode(prompt.tolist())
    letters, begin = _choices(asked, has_lines)
    if not letters:
        return f"its question has no choices{' in lines' if has_lines else ''} from A on"
    if len(spoken) != 1 or len(learned) > 4 or spoken[0][1] not in [*letters]:
        said = tokenizer.decode([int(row.ids[at]) for at in learned[:_LONGEST_SHOWN]]).strip()
        return f"its answer, {said[:_LONGEST_ANSWER]!r}, is none of the letters {letters[0]} to {letters[-1]}"
    right, name = spoken[0][1], tokenizer.name_of(int(row.ids[at]))
    ids = [tokenizer.id_of(name.replace(right, letter)) for letter in letters]
    known = tuple(id for id in ids if id is not None)
    if name.count(right) != 1 or len(known) != len(letters):
        return "the tokenizer has no token for each of its letters"
    text = _name_of(asked[:begin].strip(), has_lines)
    return ChoiceQuestion(row.row, prompt, letters, known, letters.index(right), text, row.second)


def _name_of(asked: str, has_lines: bool) -> str:
    """asked: all before the choices, examples among it"""
    if has_lines:
        return asked.splitlines()[-1].strip()[:_LONGEST_SHOWN] if asked else ""
    return asked if len(asked) <= _LONGEST_SHOWN else "…" + asked[1 - _LONGEST_SHOWN :]


def _choices(asked: str, has_lines: bool) -> tuple[str, int]:
    """The letters of the last list of them, and where that begins."""
    letters, begin = "", 0
    for found in (_CHOICE if has_lines else _CHOICE_ANYWHERE).finditer(asked):
        letter = found[1]
        if letter == "A":
            letters, begin = "A", found.start()
        elif letters and ord(letter) == ord(letters[-1]) + 1:
            letters += letter
        elif has_lines:  # anywhere in a text it may be an initial, such as that of J. Doe
            letters = ""
    return (letters, begin) if len(letters) > 1 else ("", 0)
