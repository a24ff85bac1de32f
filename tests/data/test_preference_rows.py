"""Rows of preferences: what is learned of them, and how two chats share one row."""

from __future__ import annotations

import numpy as np
import pytest

from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.preference_rows import ForeignAnswers, fit_pair, sides_of, why_left_out
from qlora_studio.data.tokenized_row import TokenizedRow


def chat(*turns: str) -> tuple[Message, ...]:
    return tuple(Message("user" if k % 2 == 0 else "assistant", turn) for k, turn in enumerate(turns))


def tokens(number: int, question: int, answer: int, weight: float = 1.0) -> TokenizedRow:
    """Ids 100 * number + 0, 1, ...; the answer is what counts."""
    ids = np.arange(question + answer, dtype=np.int32) + 100 * number
    weights = np.array([0.0] * question + [weight] * answer, np.float32)
    return TokenizedRow(number, ids, weights)


PAIR = Row(row=0, line=1, messages=chat("q", "a", "more", "good"), rejected=chat("q", "a", "more", "bad"))

EQUAL = Row(row=0, line=1, messages=chat("q", "a"), rejected=chat("q", "a"))


def test_of_a_pair_only_what_differs_is_weighed():
    better, worse = sides_of(PAIR, "dpo")
    assert [message.loss_weight for message in better.messages] == [None, 0.0, None, None]
    assert [message.loss_weight for message in worse.messages] == [None, 0.0, None, None]
    assert (better.messages[-1].content, worse.messages[-1].content) == ("good", "bad")
    assert sides_of(PAIR, "sft") == [PAIR]


def test_for_kto_a_pair_is_an_answer_rated_good_and_one_rated_bad():
    assert [side.label for side in sides_of(PAIR, "kto")] == [True, False]


@pytest.mark.parametrize(
    ("row", "method", "reason"),
    [
        (PAIR, "dpo", ""),
        (PAIR, "kto", ""),
        (Row(row=0, line=1, messages=chat("q", "a")), "dpo", "without a worse answer"),
        (Row(row=0, line=1, messages=chat("q", "a")), "orpo", "without a worse answer"),
        (Row(row=0, line=1, messages=chat("q", "a")), "kto", "that nobody rated"),
        (Row(row=0, line=1, messages=chat("q", "a"), label=False), "kto", ""),
        (Row(row=0, line=1, messages=chat("q", "a"), label=False), "sft", ""),
        (EQUAL, "dpo", "with two equal answers"),
        (EQUAL, "kto", "with two equal answers"),
        (EQUAL, "sft", ""),
    ],
)
def test_why_a_method_has_no_use_for_a_row(row, method, reason):
    assert why_left_out(row, method) == reason


def test_two_chats_stand_one_after_the_other():
    both = fit_pair(tokens(1, 3, 2), tokens(1, 3, 4), 12, "drop")
    assert both is not None
    assert (len(both.ids), both.second) == (12, 5)
    assert both.weights.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    assert fit_pair(tokens(1, 3, 2), tokens(1, 3, 4), 11, "drop") is None


@pytest.mark.parametrize(
    ("better", "worse", "kept"),
    [(4, 20, (4, 12)), (20, 4, (12, 4)), (20, 20, (8, 8)), (9, 9, (8, 8)), (8, 8, (8, 8))],
)
def test_cut_each_has_half_of_the_room_and_what_the_other_leaves(better, worse, kept):
    both = fit_pair(tokens(1, 2, better - 2), tokens(1, 2, worse - 2), 16, "truncate")
    assert both is not None
    assert (both.second, len(both.ids) - both.second) == kept


def rows_of(given: list[tuple[TokenizedRow, bool, int]], seq_len: int = 64) -> list[TokenizedRow]:
    found: list[TokenizedRow] = []
    foreign = ForeignAnswers(seq_len, lambda row, held_out: found.append(row))
    for item in given:
        foreign.add(*item)
    foreign.finish()
    return found


def test_each_question_gets_the_next_answer_and_the_last_one_the_first():
    found = rows_of([(tokens(number, 2, 1, -1.0 if number == 1 else 1.0), False, 1) for number in range(3)])
    assert [row.ids[row.second :].tolist() for row in found] == [[0, 1, 102], [100, 101, 202], [200, 201, 2]]
    assert [row.weights.tolist() for row in found][1] == [0, 0, -1, 0, 0, 1]


def test_answers_to_one_question_and_held_out_rows_are_no_foreign_ones():
    pair = [(tokens(0, 2, 1), False, 1), (tokens(0, 2, 2, -1.0), False, 1)]
    found = rows_of([*pair, (tokens(5, 2, 1), True, 1), (tokens(1, 2, 1), False, 2)])
    assert [row.ids[row.second :].tolist() for row in found if row.row == 0] == [[0, 1, 102], [0, 1, 102]]
    assert [row.second for row in found if row.row == 5] == [0]  # alone among the rows held out
    assert len([row for row in found if row.row == 1]) == 2  # learned twice an epoch


def test_a_foreign_answer_is_cut_to_the_room_there_is():
    found = rows_of([(tokens(0, 2, 2), False, 1), (tokens(1, 2, 20), False, 1)], seq_len=8)
    assert [len(row.ids) for row in found] == [8, 22]
    assert [row.second for row in found] == [4, 0]  # no room at all beside the second
