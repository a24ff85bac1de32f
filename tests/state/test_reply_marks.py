"""What one reply says and the other doesn't, as it is read."""

from __future__ import annotations

from qlora_studio.state.reply_marks import Marks, marks_between
from qlora_studio.state.word_diff import Span


def marked(marks, text, part=0):
    return [text[span.begin : span.end] for span in marks[part]]


def test_each_side_is_marked_where_it_says_what_the_other_does_not():
    first, second = "The cat sat on the mat today.", "The dog sat on the mat."
    marks = marks_between(first, second)
    assert marked(marks.first, first) == ["cat", "mat today."]
    assert marked(marks.second, second) == ["dog", "mat."]


def test_styles_are_no_difference_and_places_are_those_of_what_is_read():
    marks = marks_between("**Two** and *two* are 4.", "Two and two are **5**.")
    assert marked(marks.first, "Two and two are 4.") == ["4."]
    assert marked(marks.second, "Two and two are 5.") == ["5."]


def test_code_is_compared_and_thoughts_are_not():
    first = "<think>Twice?</think>Here it is, the whole of it:\n```\na = 2\n```\nDone."
    second = "<think>No.</think>Here it is, the whole of it:\n```\na = 3\n```\nDone."
    marks = marks_between(first, second)
    assert marks.first == ((), (), (Span(4, 5),), ())
    assert marks.second == ((), (), (Span(4, 5),), ())


def test_a_difference_that_goes_over_parts_is_marked_in_each():
    first = "Here is all of it for you:\n```\na = 2\n```\nDone with it now."
    second = "Here is all of it for you. Done with it now."
    marks = marks_between(first, second)
    assert marks.first == ((Span(22, 26),), (Span(0, 5),), ())


def test_equal_replies_have_no_marks():
    assert marks_between("One two.", "One two.") == Marks(((),), ((),), compared=True)
    assert marks_between("> ", "> ").compared
    assert marks_between("word " * 1_201, "word " * 1_201) == Marks(((),), ((),), compared=True)


def test_replies_with_little_in_common_are_not_marked():
    unlike = marks_between("Nothing of this is there.", "All other words, and more.")
    assert unlike == Marks(compared=False, unlike=True)


def test_replies_too_long_to_compare_are_not_marked():
    assert marks_between("word " * 1_201, "word " * 1_202) == Marks(compared=False, unlike=False)
