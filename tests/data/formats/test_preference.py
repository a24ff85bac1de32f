"""Pairs of a better and a worse answer, in the columns that different sets have for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings, import_bytes

U = {"role": "user", "content": "p"}


def a(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


ROW = {"prompt": "p", "chosen": "c", "rejected": "r"}
ROWS: list[tuple[Any, Any]] = [
    (ROW, ["user: p | assistant: c | x assistant: r"]),
    (ROW | {"score_chosen": 1.5}, MERGED),
    (ROW | {"chosen": " d "}, ["user: p | assistant:  d  | x assistant: r"]),
    (ROW | {"chosen": [a("e")], "rejected": [a("s")]}, ["user: p | assistant: e | x assistant: s"]),
    (ROW | {"chosen": a("f"), "rejected": a("s")}, ["user: p | assistant: f | x assistant: s"]),
    (ROW | {"chosen": [U, a("g")], "rejected": [U, a("s")]}, ["user: p | assistant: g | x assistant: s"]),
    ({"prompt": [U], "chosen": [a("h")], "rejected": [a("s")]}, ["user: p | assistant: h | x assistant: s"]),
    (
        {"prompt": [{"role": "system", "content": "b"}, U], "chosen": "i", "rejected": "s"},
        ["system: b | user: p | assistant: i | x assistant: s"],
    ),
    (ROW | {"system": "b"}, ["system: b | user: p | assistant: c | x assistant: r"]),
    (ROW | {"history": [["x", "y"]]}, ["user: x | assistant: y | user: p | assistant: c | x assistant: r"]),
    (
        ROW | {"chosen": [{"role": "user", "content": "other"}, a("j")], "rejected": [U, a("s")]},
        ["user: other | assistant: j | x user: p | x assistant: s"],
    ),
    (
        ROW | {"chosen": [U, a("k"), U, a("l")], "rejected": [U, a("k"), U, a("m")]},
        ["user: p | assistant: k | user: p | assistant: l | x assistant: m"],
    ),
    (ROW | {"chosen": 4, "rejected": 5.5}, ["user: p | assistant: 4 | x assistant: 5.5"]),
    (ROW | {"rejected": ""}, ["user: p | assistant: c | x assistant: "]),
    (ROW | {"rejected": None}, MERGED),
    (ROW | {"rejected": "c"}, ["user: p | assistant: c"]),
    (ROW | {"chosen": ""}, "no answer"),
    (ROW | {"chosen": None}, "no answer"),
    (ROW | {"chosen": []}, "an answer is a list, not text"),
    (ROW | {"chosen": [U], "rejected": [U, a("s")]}, "no answer"),
    (ROW | {"chosen": [U, a("s")], "rejected": [U]}, "no worse answer"),
    (ROW | {"chosen": [{"role": "narrator", "content": "x"}]}, "unknown role 'narrator'"),
    (ROW | {"prompt": ""}, ["user:  | assistant: c | x assistant: r"]),
    (ROW | {"prompt": {"a": 1}}, "'prompt' is an object, not text"),
    ({"prompt": "p", "chosen": "c"}, "no column 'rejected'"),
    ({"chosen": "c", "rejected": "r"}, "no column 'prompt'"),
]


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "preference"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (26, 15, 9, 2, 15)
    assert findings(data) == {
        "skipped": 9,
        "duplicates": 2,
        "prompt_unused": 1,
        "number": 1,
        "empty_rejected": 1,
        "equal_pair": 1,
        "empty_prompt": 1,
    }


TURNS = [{"from": "human", "value": "p"}]
OPENAI = {"messages": [U], "tools": [{"type": "function", "function": {"name": "add"}}]}


@pytest.mark.parametrize(
    "record",
    [
        {"question": "p", "chosen": "c", "rejected": "r"},
        {"prompt": "p", "chosen_response": "c", "rejected_response": "r"},
        {"prompt": "p", "response_chosen": "c", "response_rejected": "r"},
        {"instruction": "p", "chosen_model": "m", "chosen": "c", "rejected_model": "n", "rejected": "r"},
        {"input": "p", "preferred": "c", "dispreferred": "r"},
        {"input": OPENAI, "preferred_output": [a("c")], "non_preferred_output": [a("r")]},
        {"question": "p", "response_j": "c", "response_k": "r"},
        {"prompt": "p", "better": "c", "worse": "r"},
        {"conversations": TURNS, "chosen": TURNS[0] | {"from": "gpt", "value": "c"}, "rejected": "r"},
        {"prompt": "p", "response_a": "c", "response_b": "r", "preference": "A"},
        {"prompt": "p", "response_a": "r", "response_b": "c", "preference": "response_b"},
        {"prompt": "p", "response_0": "r", "response_1": "c", "better_response_id": 1},
        {"prompt": "p", "response1": "c", "response2": "r", "label": "1"},
        {"prompt": "p", "answer_0": "r", "answer_1": "c", "score_0": -0.5, "score_1": 0.5},
        {"history": "p", "human_ref_A": "c", "human_ref_B": "r", "labels": 1, "score_A": 9, "score_B": 1},
        {"model_a": "m", "model_b": "n", "winner": "model_b", "conversation_a": [U, a("r")],
         "conversation_b": [U, a("c")]},
        {"chosen": [U, a("c")], "rejected": [U, a("r")], "messages": [U, a("c")]},
    ],
)  # fmt: skip
def test_other_columns_for_the_same_are_found(tmp_path: Path, record: dict[str, Any]) -> None:
    data = import_records(tmp_path, [record])

    assert data.report.format == "preference"
    assert outcomes(data, 1) == [["user: p | assistant: c | x assistant: r"]]


def test_an_input_stands_below_its_instruction(tmp_path: Path) -> None:
    data = import_records(tmp_path, [{"instruction": "p", "input": "i", "chosen": "c", "rejected": "r"}])

    assert outcomes(data, 1) == [["user: p\n\ni | assistant: c | x assistant: r"]]


def test_a_tie_or_a_verdict_on_neither_is_no_pair(tmp_path: Path) -> None:
    sides = {"prompt": "p", "response_a": "c", "response_b": "r"}
    verdicts = ["a", "tie", "tie (bothbad)", "neither", None, "", " B "]

    data = import_records(tmp_path, [sides | {"winner": verdict} for verdict in verdicts])

    assert outcomes(data, 7) == [
        ["user: p | assistant: c | x assistant: r"],
        *["neither answer is preferred"] * 5,
        ["user: p | assistant: r | x assistant: c"],
    ]


def test_a_verdict_that_names_no_answer_is_told(tmp_path: Path) -> None:
    sides = {"prompt": "p", "response_0": "c", "response_1": "r"}
    how = {"prompt": "prompt", "first": "response_0", "second": "response_1", "better": "verdict"}

    data = import_records(tmp_path, [sides | {"verdict": verdict} for verdict in (0, 2, "x")], map=how)

    assert outcomes(data, 3) == [
        ["user: p | assistant: c | x assistant: r"],
        "the preference '2' names neither 'response_0' nor 'response_1'",
        "the preference 'x' names neither 'response_0' nor 'response_1'",
    ]


def test_a_verdict_in_a_number_with_a_point_is_that_number(tmp_path: Path) -> None:
    record = {"prompt": 2.5, "response_0": "r", "response_1": "c", "better_response_id": 1.0}

    data = import_records(tmp_path, [record])

    assert outcomes(data, 1) == [["user: 2.5 | assistant: c | x assistant: r"]]


def test_equal_scores_and_scores_that_are_none_are_no_pair(tmp_path: Path) -> None:
    sides = {"prompt": "p", "answer_0": "c", "answer_1": "r"}
    scores = [(1, 0), ("0.5", "0.25"), (1, 1.0), (None, 1), ("high", "low")]

    data = import_records(tmp_path, [sides | {"score_0": x, "score_1": y} for x, y in scores])

    assert outcomes(data, 5) == [
        ["user: p | assistant: c | x assistant: r"],
        MERGED,
        "neither answer is preferred",
        "a score is no number",
        "a score is no number",
    ]


def test_columns_of_any_name_can_be_mapped(tmp_path: Path) -> None:
    record = {"frage": "p", "gut": "c", "schlecht": "r"}

    data = import_records(
        tmp_path, [record], map={"prompt": "frage", "chosen": "gut", "rejected": "schlecht"}
    )

    assert (data.report.format, outcomes(data, 1)) == (
        "preference",
        [["user: p | assistant: c | x assistant: r"]],
    )


def test_turns_in_json_in_a_cell_are_read(tmp_path: Path) -> None:
    cells = ['"' + json.dumps([a(text)]).replace('"', '""') + '"' for text in "cr"]

    data = import_bytes(
        tmp_path / "rows.csv", f"prompt,chosen,rejected\np,{','.join(cells)}\np,d,s\n".encode()
    )

    assert outcomes(data, 3)[1:] == [
        ["user: p | assistant: c | x assistant: r"],
        ["user: p | assistant: d | x assistant: s"],
    ]


def test_rows_that_differ_in_the_worse_answer_only_are_two(tmp_path: Path) -> None:
    data = import_records(tmp_path, [ROW, ROW | {"rejected": "s"}, ROW])

    assert add_up(data) == (3, 2, 0, 1, 2)


def test_both_sides_are_found_by_a_search(tmp_path: Path) -> None:
    data = import_records(tmp_path, [ROW, ROW | {"rejected": "needle"}])

    rows, total = data.search("needle", 0, 10)

    assert (total, [row.row for row in rows]) == (1, [1])


def test_the_better_answer_is_learned_and_the_worse_is_not_there(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [ROW])

    assert trained(tmp_path, row) == (
        "<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n",
        "c",
    )
