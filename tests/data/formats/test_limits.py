"""Records that are made to fill memory or to take for ever. Fault 30."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.data.transcripts import MARKS, talk
from tests.data.formats.outcomes import import_records, outcomes

GOOD: dict[str, dict[str, Any]] = {
    "question_answer": {"question": "q", "answer": "a"},
    "self_instruct": {"instruction": "q", "instances": [{"input": "", "output": "a"}]},
}
MANY = [f"a{number}" for number in range(10_001)]


@pytest.mark.parametrize(
    ("format", "odd", "reason"),
    [
        ("question_answer", {"answer": MANY}, "more than 10,000 answers"),
        (
            "question_answer",
            {"question": "q" * 700_000, "answer": MANY[:100]},
            "its rows together are longer than 64 MB",
        ),
        ("self_instruct", {"instances": [{"output": text} for text in MANY]}, "more than 10,000 instances"),
        (
            "self_instruct",
            {"instruction": "{INPUT}" * 10_000, "instances": [{"input": "i" * 10_000, "output": "a"}]},
            "longer than 8 MB",
        ),
        (
            "self_instruct",
            {"instruction": "q" * 700_000, "instances": [{"output": text} for text in MANY[:100]]},
            "its rows together are longer than 64 MB",
        ),
    ],
)
def test_a_record_that_would_become_too_much_is_skipped(
    tmp_path: Path, format: str, odd: dict[str, Any], reason: str
) -> None:  # D6
    data = import_records(tmp_path, [GOOD[format], GOOD[format] | odd], alternatives="all")

    assert data.report.format == format
    assert outcomes(data, 2)[1] == reason


@pytest.mark.parametrize("format", MARKS)
@pytest.mark.parametrize("text", ["\n", "\n \n\t", "\n\nHuman:", "\n ", "### ", "\n<human>", "<bot>:\n", "#"])
def test_no_text_takes_long_to_be_looked_through_for_speakers(format: str, text: str) -> None:  # S7
    start = time.process_time()

    MARKS[format].split(text * (4_000_000 // len(text)))

    assert time.process_time() - start < 10


def test_blank_lines_between_turns_do_not_matter() -> None:
    messages = talk("\n\n\n Human: a\n\n\n\nAssistant: b\n \t\n  Human: c", "hh_rlhf", set())

    assert [message.content for message in messages] == ["a", "b", "c"]
