"""Right answers to the chats held out, counted at each evaluation of a run: letters or numbers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from operator import eq

import numpy as np
from numpy.typing import NDArray

from qlora_studio.data.choice_questions import ChoiceQuestion
from qlora_studio.engine.evaluation import RowsDone
from qlora_studio.engine.number_answers import NumberQuestion, TokensWritten
from qlora_studio.errors import StudioError

LETTERS = "letters"
NUMBERS = "numbers"


@dataclass(frozen=True)
class Counted:
    """right: of `asked`; None where the model finds no letter likely by a number. kind: letters | numbers"""

    kind: str
    right: int | None
    asked: int


@dataclass(frozen=True)
class RightLetters:
    """choose: the place of the likeliest letter of each question, by the model as it stands."""

    questions: Sequence[ChoiceQuestion]
    choose: Callable[[], Generator[int, None, NDArray[np.int64]]]

    def count(self) -> Generator[RowsDone, None, Counted]:
        """Says how many questions are answered; whoever listens may stop there."""
        asked = len(self.questions)
        choosing = self.choose()
        while True:
            try:
                done = next(choosing)
            except StopIteration as finished:
                chosen: list[int] = finished.value.tolist()
                break
            except StudioError:  # not finite: the loss says so too, sooner or later; a run isn't ended here
                return Counted(LETTERS, None, asked)
            yield RowsDone(done, asked, "Choosing letters, question")
        right = [question.right for question in self.questions]
        return Counted(LETTERS, sum(map(eq, chosen, right)), asked)


@dataclass(frozen=True)
class RightNumbers:
    """answer: the number in the likeliest reply to each question, by the model as it stands."""

    questions: Sequence[NumberQuestion]
    answer: Callable[[], Generator[TokensWritten, None, list[str | None]]]

    def count(self) -> Generator[RowsDone, None, Counted]:
        """Says how many tokens are written; whoever listens may stop there."""
        asked = len(self.questions)
        answering = self.answer()
        while True:
            try:
                written = next(answering)
            except StopIteration as finished:
                numbers: list[str | None] = finished.value
                break
            last = written.first + written.count
            words = f"Answering chats {written.first + 1} to {last} of {asked}, token"
            yield RowsDone(written.tokens, written.most_tokens, words)
        right = [question.number for question in self.questions]
        return Counted(NUMBERS, sum(map(eq, numbers, right)), asked)
