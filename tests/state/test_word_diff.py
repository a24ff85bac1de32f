"""Two replies word by word: nothing of either is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.state.word_diff import word_diff

WORDS = st.lists(st.sampled_from(["a", "bike", "order,", "two  ", "\n", "Ghent."]), max_size=30).map(" ".join)


def test_what_is_gone_stands_before_what_came_in_its_place():
    assert word_diff("Press the button.", "Press Edit address.") == [
        ("same", "Press "),
        ("gone", "the button."),
        ("new", "Edit address."),
    ]


def test_equal_replies_have_no_difference():
    assert word_diff("Go on.", "Go on.") == [("same", "Go on.")]


@given(WORDS, WORDS)
def test_the_new_reply_can_be_read_from_the_pieces(before, after):
    pieces = word_diff(before, after)
    assert "".join(piece.text for piece in pieces if piece.fate != "gone") == after


def test_very_long_replies_are_not_compared_word_by_word():
    before, after = "a " * 5_000, "b " * 5_000
    assert word_diff(before, after) == [("gone", before), ("new", after)]
