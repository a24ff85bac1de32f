"""Text from outside is shown as what it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.plain_text import visible_line, visible_text


@pytest.mark.fault(29)
def test_control_and_direction_characters_are_written_as_their_codes():  # S8
    assert visible_text("a\x1b[31m\u202eb\x00") == "a<U+001B>[31m<U+202E>b<U+0000>"


@pytest.mark.parametrize(
    "hidden",
    [
        "\u061c",  # turns direction, as the marks at U+200E do
        "\u2069",
        "\u00ad",  # Default_Ignorable_Code_Point: nothing of it is seen
        "\u034f",
        "\u115f",  # a letter to Python
        "\u3164",
        "\u2064",
        "\u206f",
        "\ufffb",
        "\U000e0041",  # a tag: whole sentences can hide in these
    ],
)
def test_what_turns_text_around_or_is_not_seen_is_written_as_its_code(hidden: str):  # S8
    assert visible_text(f"pay{hidden}pal") == f"pay<U+{ord(hidden):04X}>pal"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pay\u200dpal", "pay<U+200D>pal"),
        ("\u200c名", "<U+200C>名"),
        ("👍\ufe0f\ufe01\U000e0101", "👍\ufe0f<U+FE01><U+E0101>"),
    ],
)
def test_joiners_and_selectors_are_seen_where_they_join_nothing(text: str, shown: str):  # S8
    assert visible_text(text) == shown


@given(st.text("a1é日👩\ufe0f\u200d\u200e\x1b\n"), st.text("a1é日👩\ufe0f\u200d\u200e\x1b\n"))
def test_what_was_shown_stays_when_more_text_comes(text: str, more: str):
    assert visible_text(text + more).startswith(visible_text(text))


def test_ordinary_text_of_any_language_stays():
    text = "é 日本語 हिन्दी عربى می\u200cخواهم 👩‍💻 👩‍❤️‍👩 1️⃣ 葛\U000e0100 ᠠ\u180b\tline\nnext"

    assert visible_text(text) == text


def test_a_line_has_no_line_ends():
    assert visible_line("a\nb") == "a⏎b"


def test_endless_text_is_cut_and_says_so():  # S8
    assert visible_text("x" * 20_000).endswith("… (10,000 more characters)")


@pytest.mark.fault(29)
@given(st.text())
def test_nothing_that_steers_a_terminal_gets_through(text: str):  # S8
    assert not any(ord(character) < 32 and character not in "\n\t" for character in visible_text(text))
