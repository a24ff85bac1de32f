"""A reply is taken apart into words, code and thought, at whatever letter it stands."""

from __future__ import annotations

import pytest

from qlora_studio.state.reply_parts import Kind, Part, reply_parts

CODE = "Here:\n\n```python\nfor a in b:\n    pass\n```\n\nDone."


def test_plain_words_are_one_part():
    assert reply_parts("One.\n\nTwo.") == [Part(Kind.WORDS, "One.\n\nTwo.")]


def test_a_block_of_code_stands_alone_with_its_language():
    assert reply_parts(CODE) == [
        Part(Kind.WORDS, "Here:"),
        Part(Kind.CODE, "for a in b:\n    pass", "python"),
        Part(Kind.WORDS, "Done."),
    ]


def test_code_that_is_still_written_is_code_already():
    assert reply_parts(CODE.partition("\n    pass")[0])[-1] == Part(
        Kind.CODE, "for a in b:", "python", complete=False
    )


def test_a_longer_fence_holds_a_shorter_one():
    assert reply_parts("````\n```\n````") == [Part(Kind.CODE, "```")]


@pytest.mark.parametrize("line", ["a ``` b", "    ```", "``` a ` b", "``"])
def test_what_is_no_fence_stays_words(line):
    assert reply_parts(f"x\n{line}\ny") == [Part(Kind.WORDS, f"x\n{line}\ny")]


def test_a_thought_stands_apart_from_the_answer():
    assert reply_parts("<think>\nHm.\n</think>\n\nYes.") == [
        Part(Kind.THOUGHT, "Hm."),
        Part(Kind.WORDS, "Yes."),
    ]


def test_a_thought_that_the_template_began_ends_all_the_same():
    assert reply_parts("Hm.\n</think>\nYes.") == [Part(Kind.THOUGHT, "Hm."), Part(Kind.WORDS, "Yes.")]


def test_a_thought_that_is_still_written_is_a_thought_already():
    assert reply_parts("<think>Hm") == [Part(Kind.THOUGHT, "Hm", complete=False)]


def test_an_empty_thought_is_not_shown():
    assert reply_parts("<think>\n\n</think>\n\nYes.") == [Part(Kind.WORDS, "Yes.")]


def test_marks_further_down_are_what_the_reply_talks_about():
    assert reply_parts("Write <think> first.") == [Part(Kind.WORDS, "Write <think> first.")]


def test_long_words_are_parts_of_whole_paragraphs():
    paragraph = "A sentence that is not short. " * 25
    text = f"- {paragraph}\n\n  of the item\n\n{paragraph}\n\nLast."
    parts = reply_parts(text)
    assert "\n\n".join(part.text for part in parts) == text
    assert [part.text[-11:] for part in parts] == ["of the item", " not short. "[1:], "Last."]
