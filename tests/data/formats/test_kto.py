"""KTO: answers that are rated good or bad, each on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings, import_bytes

U = {"role": "user", "content": "p"}
ROW = {"prompt": "p", "completion": "c", "label": True}
ROWS: list[tuple[Any, Any]] = [
    (ROW, ["user: p | assistant: c | good"]),
    (ROW | {"label": False}, ["user: p | assistant: c | bad"]),
    (ROW | {"label": "true"}, MERGED),
    (ROW | {"label": "False"}, MERGED),
    (ROW | {"completion": "d", "label": 1}, ["user: p | assistant: d | good"]),
    (ROW | {"completion": "d", "label": 0}, ["user: p | assistant: d | bad"]),
    (ROW | {"completion": "e", "label": "+1"}, ["user: p | assistant: e | good"]),
    (ROW | {"completion": "f", "label": 1.0}, ["user: p | assistant: f | good"]),
    (ROW | {"completion": "g", "label": " Good "}, ["user: p | assistant: g | good"]),
    (ROW | {"completion": "g", "label": "bad"}, ["user: p | assistant: g | bad"]),
    (ROW | {"completion": "h", "label": "thumbs up"}, ["user: p | assistant: h | good"]),
    (ROW | {"completion": "h", "label": "👎"}, ["user: p | assistant: h | bad"]),
    (ROW | {"prompt": [U], "completion": [{"role": "assistant", "content": "i"}]},
     ["user: p | assistant: i | good"]),
    (ROW | {"prompt": "", "completion": "j"}, ["user:  | assistant: j | good"]),
    (ROW | {"completion": 5}, ["user: p | assistant: 5 | good"]),
    (ROW | {"system": "s"}, ["system: s | user: p | assistant: c | good"]),
    (ROW | {"label": None}, "'label' is null that says neither good nor bad"),
    (ROW | {"label": 3}, "'label' is a number that says neither good nor bad"),
    (ROW | {"label": "maybe"}, "'label' is text that says neither good nor bad"),
    (ROW | {"label": [True]}, "'label' is a list that says neither good nor bad"),
    (ROW | {"completion": ""}, "no answer"),
    (ROW | {"completion": None}, "'completion' is null, not text"),
    ({"prompt": "p", "completion": "c"}, "no column 'label'"),
    ({"prompt": "p", "label": True}, "no column 'completion'"),
]  # fmt: skip


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "kto"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (24, 14, 8, 2, 14)
    assert findings(data) == {
        "skipped": 8,
        "duplicates": 2,
        "number": 1,
        "empty_prompt": 1,
        "rated_bad": 4,
    }


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [U, {"role": "assistant", "content": "c"}], "label": False},
        {"messages": [U, {"role": "assistant", "content": "c"}], "kto_tag": "false"},
        {"instruction": "p", "input": "", "output": "c", "kto_tag": False},
        {"question": "p", "answer": "c", "label": 0},
        {"prompt": "p", "response": "c", "thumbs_up": False},
    ],
)
def test_other_columns_for_the_same_are_found(tmp_path: Path, record: dict[str, Any]) -> None:
    data = import_records(tmp_path, [record])

    assert (data.report.format, outcomes(data, 1)) == ("kto", [["user: p | assistant: c | bad"]])


def test_a_label_beside_other_columns_is_said_to_be_a_guess(tmp_path: Path) -> None:
    data = import_records(tmp_path, [{"question": "p", "answer": "c", "label": 1}])

    assert findings(data) == {"guess": 1}
    assert data.report.guess == (
        "'label' rates each answer: true or 1 is good. "
        "It could also be read as question_answer; this says more."
    )


def test_a_column_of_any_name_can_be_mapped(tmp_path: Path) -> None:
    record = {"prompt": "p", "completion": "c", "verdict": "down"}

    data = import_records(
        tmp_path, [record], map={"prompt": "prompt", "answer": "completion", "label": "verdict"}
    )

    assert (data.report.format, outcomes(data, 1)) == ("kto", [["user: p | assistant: c | bad"]])


def test_a_csv_has_words_for_good_and_bad(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.csv", b"prompt,completion,label\np,c,True\np,d,0\n")

    assert outcomes(data, 3)[1:] == [["user: p | assistant: c | good"], ["user: p | assistant: d | bad"]]


def test_good_answers_are_learned_and_bad_ones_are_not(tmp_path: Path) -> None:
    good, bad = import_records(tmp_path, [ROW, ROW | {"label": False}])
    text = "<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n"

    assert trained(tmp_path, good) == (text, "c")
    assert trained(tmp_path, bad) == (text, "")
    assert trained(tmp_path, bad, train_on="everything") == (text, "")
