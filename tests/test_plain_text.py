"""Text from outside is shown as what it is."""

from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.plain_text import visible_line, visible_text


def test_control_and_direction_characters_are_written_as_their_codes():  # S8
    assert visible_text("a\x1b[31m\u202eb\x00") == "a<U+001B>[31m<U+202E>b<U+0000>"


def test_ordinary_text_of_any_language_stays():
    text = "é 日本語 हिन्दी عربى 👩‍💻\tline\nnext"

    assert visible_text(text) == text


def test_a_line_has_no_line_ends():
    assert visible_line("a\nb") == "a⏎b"


def test_endless_text_is_cut_and_says_so():  # S8
    assert visible_text("x" * 20_000).endswith("… (10,000 more characters)")


@given(st.text())
def test_nothing_that_steers_a_terminal_gets_through(text: str):  # S8
    assert not any(ord(character) < 32 and character not in "\n\t" for character in visible_text(text))
