"""Chip2: <human>: and <bot>: in one text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings

ROWS: list[tuple[Any, Any]] = [
    ("<human>: a\n<bot>: b", ["user: a | assistant: b"]),
    ("<human>: a\n<bot>: b\n", MERGED),
    ("\n<human>:a\n<bot>:c", ["user: a | assistant: c"]),
    ("<human>: a\r\n<bot>: d\r\n", ["user: a | assistant: d"]),
    ("<human>: a\n<bot>: b\n<human>: c\n<bot>: d", ["user: a | assistant: b | user: c | assistant: d"]),
    ("<human>: a\n\nb\n<bot>: c\n\n1. d\n2. e", ["user: a\n\nb | assistant: c\n\n1. d\n2. e"]),
    ("<Human>: a\n<BOT>: e", ["user: a | assistant: e"]),
    ("<human>: what is <bot>: for?\n<bot>: f", ["user: what is <bot>: for? | assistant: f"]),
    ("<human>: a\n<bot>: g <|im_end|>", ["user: a | assistant: g <|im_end|>"]),
    ("  <human>: a\n  <bot>: h", ["user: a | assistant: h"]),
    ("Background: s\n<human>: a\n<bot>: i", ["system: Background: s | user: a | assistant: i"]),
    ("<human>: a\n<bot>: i\n<human>: j", ["user: a | assistant: i | user: j"]),
    ("<human>: a\n<human>: b\n<bot>: k", ["user: a | user: b | assistant: k"]),
    ("<bot>: Hello\n<human>: a\n<bot>: l", ["assistant: Hello | user: a | assistant: l"]),
    ("<human>: \n<bot>: m", ["user:  | assistant: m"]),
    ("<human>: a\n<bot>: ", "no answer"),
    ("<human>: a", "no answer"),
    ("<bot>: b", ["assistant: b"]),
    ("only text", "the text has no mark of a speaker"),
    ("", "no text"),
    (" \n", "no text"),
    (None, "'text' is null, not text"),
    (["<human>: a"], "'text' is a list, not text"),
    (5, "the text has no mark of a speaker"),
]


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [{"text": text, "metadata": '{"source": "s"}'} for text, _ in ROWS])

    assert data.report.format == "chip2"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (24, 15, 8, 1, 15)
    assert findings(data) == {
        "skipped": 8,
        "duplicates": 1,
        "preface": 1,
        "open_end": 1,
        "same_speaker": 1,
        "answer_first": 1,
        "empty_prompt": 2,
    }


def test_the_answer_and_its_end_are_learned(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [{"text": "<human>: a\n<bot>: b"}])

    assert trained(tmp_path, row) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
        "b",
    )


def test_the_format_can_be_asked_for_where_few_rows_show_it(tmp_path: Path) -> None:
    texts = ["a", "b", "<human>: a\n<bot>: b"]

    found = import_records(tmp_path, [{"text": text} for text in texts])
    asked = import_records(tmp_path, [{"text": text} for text in texts], format="chip2")

    assert found.report.format == "text"
    assert outcomes(asked, 3)[2] == ["user: a | assistant: b"]
