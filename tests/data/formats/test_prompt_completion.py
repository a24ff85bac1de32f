"""A prompt and what follows it, under the names that files give to the two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings, import_bytes

USER = {"role": "user", "content": "p"}
ANSWER = {"role": "assistant", "content": "c"}
ROW = {"prompt": "p", "completion": "c"}

ROWS: list[tuple[Any, Any]] = [
    (ROW, ["user: p | assistant: c"]),
    (ROW | {"completion": " c"}, ["user: p | assistant:  c"]),
    (ROW | {"completion": "c\r\n"}, ["user: p | assistant: c\r\n"]),
    (ROW | {"completion": 0}, ["user: p | assistant: 0"]),
    (ROW | {"completion": ["d"]}, ["user: p | assistant: d"]),
    (ROW | {"completion": ANSWER | {"content": "e"}}, ["user: p | assistant: e"]),
    (ROW | {"completion": [ANSWER | {"content": "f"}]}, ["user: p | assistant: f"]),
    ({"prompt": [USER], "completion": [ANSWER | {"content": "g"}]}, ["user: p | assistant: g"]),
    ({"prompt": [USER], "completion": "h"}, ["user: p | assistant: h"]),
    (
        {"prompt": [{"role": "system", "content": "s"}, USER], "completion": [ANSWER, USER, ANSWER]},
        ["system: s | user: p | assistant: c | user: p | assistant: c"],
    ),
    (ROW | {"prompt": "[1, 2]", "completion": "[2, 1]"}, ["user: [1, 2] | assistant: [2, 1]"]),
    (ROW | {"prompt": ["p"]}, "'prompt' is a list, not text"),
    (ROW | {"prompt": None, "completion": "i"}, ["user:  | assistant: i"]),
    (ROW | {"prompt": "\t", "completion": "j"}, ["user: \t | assistant: j"]),
    (ROW | {"completion": ""}, "no answer"),
    (ROW | {"completion": None}, "'completion' is null, not text"),
    (ROW | {"completion": [[]]}, "'completion' is a list, not text"),
    (ROW | {"system": "s", "history": [["a", "b"]]},
     ["system: s | user: a | assistant: b | user: p | assistant: c"]),
    (ROW | {"score": 1, "id": None}, MERGED),
    (ROW | {"tools": "[]"}, MERGED),
    ({"completion": "c"}, "no column 'prompt'"),
    (None, "null in place of an object with columns"),
]  # fmt: skip


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "prompt_completion"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (22, 14, 6, 2, 14)
    assert findings(data) == {"skipped": 6, "duplicates": 2, "number": 1, "empty_prompt": 2}


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        *(("input", "output"), ("query", "response"), ("user", "assistant"), ("human", "bot")),
        *(("source", "target"), ("Prompt ", "RESPONSE"), ("prompt", "reply"), ("query", "answers")),
    ],
)
def test_other_names_are_found(tmp_path: Path, prompt: str, answer: str) -> None:
    data = import_records(tmp_path, [{prompt: "p", answer: "c", "id": 1}])

    assert (data.report.format, outcomes(data, 1)) == ("prompt_completion", [["user: p | assistant: c"]])


def test_answers_that_are_json_stay_text(tmp_path: Path) -> None:
    calls = json.dumps([{"name": "add", "arguments": {"a": 1}}])

    (row,) = import_records(tmp_path, [{"query": "p", "answers": calls, "tools": '[{"name": "add"}]'}])

    assert row.messages[1].content == calls
    assert json.loads(row.tools) == [{"name": "add"}]


def test_a_table_of_tabs_and_one_of_semicolons_are_read(tmp_path: Path) -> None:
    tabs = import_bytes(tmp_path / "rows.tsv", b"prompt\tcompletion\np, q\tc\n")
    semicolons = import_bytes(tmp_path / "rows.csv", b'prompt;completion\n"p; q";c\n')

    assert outcomes(tabs, 2)[1] == ["user: p, q | assistant: c"]
    assert outcomes(semicolons, 2)[1] == ["user: p; q | assistant: c"]


def test_the_completion_and_its_end_are_learned(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [ROW])

    assert trained(tmp_path, row) == (
        "<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n",
        "c",
    )
