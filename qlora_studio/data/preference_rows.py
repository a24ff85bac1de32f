"""Rows of preferences: which chats a row is made of, and how two of them share one row of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from qlora_studio.config.run_config import PAIRS, PREFERENCES
from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.tokenized_row import TokenizedRow

Write = Callable[[TokenizedRow, bool], None]  # the row, and whether it is held out


def why_left_out(row: Row, method: str) -> str:
    """Why a method of preferences can't learn from the row; empty where it can."""
    if method in PAIRS and not row.rejected:
        return "without a worse answer"
    if method == "kto" and not row.rejected and row.label is None:
        return "that nobody rated"
    if method in PREFERENCES and row.rejected == row.messages:
        return "with two equal answers"
    return ""


def sides_of(row: Row, method: str) -> list[Row]:
    """The chats whose answers are weighed, each as a row of its own: one, or the better and the worse.

    What both have in common teaches nothing about the preference. For KTO a pair is two rated chats.
    """
    if method not in PREFERENCES or not row.rejected:
        return [row]
    shared = row.shared_turns
    good, bad = (True, False) if method == "kto" else (None, None)
    chats = ((row.messages, good), (row.rejected, bad))
    return [
        msgspec.structs.replace(row, messages=_after(chat, shared), rejected=(), label=label)
        for chat, label in chats
    ]


def _after(messages: tuple[Message, ...], shared: int) -> tuple[Message, ...]:
    """The same chat, of which the answers before turn `shared` are context."""
    return tuple(
        msgspec.structs.replace(message, loss_weight=0.0)
        if k < shared and message.role == "assistant"
        else message
        for k, message in enumerate(messages)
    )


def fit_pair(better: TokenizedRow, worse: TokenizedRow, seq_len: int, too_long: str) -> TokenizedRow | None:
    """Both in one row of at most `seq_len` tokens; None where they are longer and aren't to be cut.

    Cut, each has half of the room, and what the other leaves of its half.
    """
    first, second = len(better.ids), len(worse.ids)
    if first + second > seq_len:
        if too_long != "truncate":
            return None
        first = min(first, max(seq_len // 2, seq_len - second))
        second = min(second, seq_len - first)
    return TokenizedRow(
        better.row,
        np.concatenate([better.ids[:first], worse.ids[:second]]),
        np.concatenate([better.weights[:first], worse.weights[:second]]),
        first,
    )


@dataclass
class _Rated:
    """A row that waits for another one's answer."""

    row: TokenizedRow
    held_out: bool
    times: int


class ForeignAnswers:
    """Gives each rated row (KTO) a second chat: its own question with the answer of the next row.

    How likely the model finds answers that have nothing to do with the question is what KTO measures each
    answer against. The last row takes the answer of the first. Chats of one line give each other none, and
    neither do rows that are held out and rows that aren't. source: arXiv:2402.01306, section 4
    """

    def __init__(self, seq_len: int, write: Write) -> None:
        self._seq_len = seq_len
        self._write = write
        self._waiting: dict[bool, list[_Rated]] = {True: [], False: []}  # of one line
        self._first: dict[bool, _Rated] = {}

    def add(self, row: TokenizedRow, held_out: bool, times: int) -> None:
        """The next rated row, with a token to learn."""
        rated, waiting = _Rated(row, held_out, times), self._waiting[held_out]
        self._first.setdefault(held_out, rated)
        if waiting and waiting[0].row.row != row.row:
            self._give(waiting, rated)
            waiting.clear()
        waiting.append(rated)

    def finish(self) -> None:
        """After the last row."""
        for held_out, waiting in self._waiting.items():
            if waiting:
                self._give(waiting, self._first[held_out])
                waiting.clear()

    def _give(self, waiting: list[_Rated], other: _Rated) -> None:
        for rated in waiting:
            row = self._with_answer_of(other.row, rated.row)
            for _ in range(rated.times):
                self._write(row, rated.held_out)

    def _with_answer_of(self, other: TokenizedRow, row: TokenizedRow) -> TokenizedRow:
        """As much of the answer as there is room for; the row alone where there is none, or no other row."""
        question = row.ids[: _answer(row).start]
        answer = other.ids[_answer(other)][: max(self._seq_len - len(row.ids) - len(question), 0)]
        if other.row == row.row or not len(answer):
            return row
        foreign = np.zeros(len(question) + len(answer), dtype=np.float32)
        foreign[len(question) :] = 1
        return TokenizedRow(
            row.row,
            np.concatenate([row.ids, question, answer]),
            np.concatenate([row.weights, foreign]),
            len(row.ids),
        )


def _answer(row: TokenizedRow) -> slice:
    """From the first token that counts to the last."""
    counted = np.flatnonzero(row.weights)
    return slice(int(counted[0]), int(counted[-1]) + 1)
