"""The safe part of Markdown: what is made of it, and that nothing else is made of anything."""

from __future__ import annotations

import pytest

from qlora_studio.state.markdown_blocks import Block, Run, markdown_blocks


def read(text: str) -> str:
    return "\n".join(block.text for block in markdown_blocks(text))


def test_bold_italic_struck_and_code_are_runs_of_their_own():
    (block,) = markdown_blocks("A **b *c*** ~~d~~ `e*f*`")
    assert block.kind == "words"
    assert block.runs == (
        Run("A "),
        Run("b ", bold=True, italic=False),
        Run("c", bold=True, italic=True),
        Run(" "),
        Run("d", struck=True),
        Run(" "),
        Run("e*f*", code=True),
    )


def test_headings_have_their_depth_and_lines_stay_lines():
    assert markdown_blocks("## Two words\n\none\ntwo") == (
        Block("heading", (Run("Two words"),), 2),
        Block("words", (Run("one\ntwo"),)),
    )


def test_items_keep_their_marks_numbers_and_depth():
    blocks = markdown_blocks("- one\n  - two\n- three\n\n7. seven\n8. eight")
    assert [(block.kind, block.depth, block.text) for block in blocks] == [
        ("item", 1, "• one"),
        ("item", 2, "• two"),
        ("item", 1, "• three"),
        ("item", 1, "7. seven"),
        ("item", 1, "8. eight"),
    ]


def test_a_second_paragraph_of_an_item_has_no_mark_of_its_own():
    assert [block.text for block in markdown_blocks("- one\n\n  more\n\n- two")] == ["• one", "more", "• two"]


@pytest.mark.parametrize(
    "written",
    [
        "<img src='file:///etc/passwd'>",
        "![a](file:///etc/passwd)",
        "[a](javascript:alert(1))",
        "<https://example.org>",
        "&lt;b&gt;",
        r"\(x^2\) and \[y\]",
        "| a | b |\n|---|---|",
        "2 * 3 * 4 and snake_case_name",
        "She has 4*2=<<4*2=8>>8 eggs and 2**3**4 of 2*x*y",
        "class A:\n    def __init__(self):\n\tself.__a_b__ = 1",
        r"\*not bold\* and \_x\_",
        "#### 26",
    ],
)
def test_what_is_no_part_of_it_stays_as_it_was_written(written):  # S8
    assert read(written) == written


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("42.", "42."),
        ("7)", "7)"),
        ("-", "•"),
        ("Add them.\n\n1.\n2. two", "Add them.\n1.\n2. two"),
        ("-\n  - one", "•\n• one"),
        ("The answer:\n\n#", "The answer:\n#"),
        ("####", "####"),
    ],
)
def test_a_mark_without_words_is_shown(written, shown):
    assert read(written) == shown


def test_words_of_a_script_without_blanks_may_be_bold():
    (block,) = markdown_blocks("这是**重点**内容")
    assert block.runs == (Run("这是"), Run("重点", bold=True), Run("内容", bold=False))


@pytest.mark.parametrize("text", [mark * 9_000 for mark in ("*", "4*", "__a", "[", "> ", "- ", "`")])
def test_endless_marks_end(text):
    assert len(read(text)) <= 2 * len(text)


def test_lines_keep_the_blanks_they_begin_with():
    text = "    if x:\n        return 1\n  else:\n\ty"
    assert read(text) == text
    assert read("- one\n  - two\n\n        y = 1") == "• one\n• two\n    y = 1"


def test_of_words_without_marks_nothing_is_lost():
    text = "One line.\n\nAnother, of two sentences. And so on."
    assert [block.text for block in markdown_blocks(text)] == text.split("\n\n")
