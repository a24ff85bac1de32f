"""Which rows ask for one of several letters, as MMLU's do, and what each may be answered with."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlora_studio.data.prepared import PreparedRows
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.data.tokenizer import ModelTokenizer

_LONGEST_SHOWN = 100  # characters of a question
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
    questions, has_lines = [], _keeps_lines(tokenizer)
    for place in range(len(rows.validation)):
        question = _question(rows.validation[place], rows.info.stop_ids, tokenizer, has_lines)
        if question is None:
            return []
        questions.append(question)
    return questions


def _keeps_lines(tokenizer: ModelTokenizer) -> bool:
    (encoded,) = tokenizer.encode_rendered(["A\nB"])
    return "\n" in tokenizer.decode(encoded.ids.tolist())


def _question(
    row: TokenizedRow, stop_ids: tuple[int, ...], tokenizer: ModelTokenizer, has_lines: bool
) -> ChoiceQuestion | None:
    """The last choices count: those before belong to examples."""
    learned = [int(at) for at in np.flatnonzero(row.weights) if int(row.ids[at]) not in stop_ids]
    spoken = [(at, text) for at in learned[:4] if (text := tokenizer.decode([int(row.ids[at])]).strip())]
    if len(spoken) != 1 or len(learned) > 4 or not re.fullmatch("[A-Z]", spoken[0][1]):
        return None
    at, right = spoken[0]
    prompt = row.ids[:at]
    asked = tokenizer.decode(prompt.tolist())
    letters, begin = _choices(asked, has_lines)
    name = tokenizer.name_of(int(row.ids[at]))
    if at == 0 or right not in letters or name.count(right) != 1:
        return None
    ids = [tokenizer.id_of(name.replace(right, letter)) for letter in letters]
    known = tuple(id for id in ids if id is not None)
    if len(known) != len(letters):
        return None
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
