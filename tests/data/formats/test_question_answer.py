"""Questions with answers: alone, about a passage, or with choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings, import_bytes

ROW = {"question": "q", "answer": "a"}
SQUAD = {"context": "c", "question": "q", "answers": {"text": ["a", "a"], "answer_start": [1, 1]}}
MMLU = {"question": "q", "choices": ["w", "x", "y", "z"], "answer": 2, "subject": "s"}
ARC = {
    "question": "q",
    "choices": {"text": ["w", "x"], "label": ["1", "2"]},
    "answerKey": "2",
}
LETTERED = "q\nA. w\nB. x\nC. y\nD. z"

ROWS: list[tuple[Any, Any]] = [
    (ROW, ["user: q | assistant: a"]),
    (ROW | {"answer": 42}, ["user: q | assistant: 42"]),
    (ROW | {"answer": 4.25}, ["user: q | assistant: 4.25"]),
    (ROW | {"answer": False}, ["user: q | assistant: false"]),
    (ROW | {"answer": "#### 7\n"}, ["user: q | assistant: #### 7\n"]),
    (ROW | {"answer": ["b"]}, ["user: q | assistant: b"]),
    (ROW | {"answer": ["c", "d", "c"]}, ["user: q | assistant: c"]),
    (ROW | {"answer": [None, "e"]}, ["user: q | assistant: e"]),
    (ROW | {"answer": {"value": "f", "aliases": ["g"]}}, ["user: q | assistant: f"]),
    (ROW | {"answer": [{"text": "g", "answer_start": 3}]}, ["user: q | assistant: g"]),
    (ROW | {"answer": []}, "no answer"),
    (ROW | {"answer": ["", " "]}, "no answer"),
    (ROW | {"answer": {"other": "a"}}, "'answer' is an object, not text"),
    (ROW | {"answer": None}, "'answer' is null, not text"),
    (ROW | {"answer": "[1, 2]"}, ["user: q | assistant: [1, 2]"]),
    (ROW | {"question": "", "answer": "h"}, ["user:  | assistant: h"]),
    (ROW | {"question": None, "answer": "h"}, MERGED),
    (ROW | {"question": "Ä \u2028 q"}, ["user: Ä \u2028 q | assistant: a"]),
    (ROW | {"system_prompt": "s"}, ["system: s | user: q | assistant: a"]),
    (ROW | {"system_prompt": " "}, MERGED),
    ({"question": "q"}, "no column 'answer'"),
    ({"question": {"stem": "q"}, "answer": "a"}, "'question' is an object, not text"),
]


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "question_answer"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (22, 14, 6, 2, 14)
    assert findings(data) == {
        "skipped": 6,
        "duplicates": 2,
        "number": 3,
        "several_answers": 1,
        "empty_prompt": 1,
    }


def test_a_passage_stands_above_its_question(tmp_path: Path) -> None:
    rows: list[tuple[Any, Any]] = [
        (SQUAD, ["user: c\n\nq | assistant: a"]),
        (SQUAD | {"answers": {"text": ["b", "bb"], "answer_start": [1, 9]}}, ["user: c\n\nq | assistant: b"]),
        (SQUAD | {"answers": {"text": [], "answer_start": []}}, "no answer"),
        (SQUAD | {"answers": '{"text": ["d"], "answer_start": [1]}'}, ["user: c\n\nq | assistant: d"]),
        (SQUAD | {"answers": '{"text": "e"}'}, ['user: c\n\nq | assistant: {"text": "e"}']),
        (SQUAD | {"context": ""}, ["user: q | assistant: a"]),
        (SQUAD | {"context": None}, MERGED),
    ]

    data = import_records(tmp_path, [record for record, _ in rows])

    assert (data.report.format, data.report.map["context"]) == ("question_answer", "context")
    assert outcomes(data, len(rows)) == [expected for _, expected in rows]
    assert findings(data) == {"skipped": 1, "duplicates": 1, "several_answers": 1}


def test_choices_stand_below_the_question_and_the_answer_is_a_letter(tmp_path: Path) -> None:
    rows: list[tuple[Any, Any]] = [
        (MMLU, [f"user: {LETTERED} | assistant: C"]),
        (MMLU | {"answer": "B"}, [f"user: {LETTERED} | assistant: B"]),
        (MMLU | {"answer": "z"}, [f"user: {LETTERED} | assistant: z"]),
        (MMLU | {"answer": "0"}, [f"user: {LETTERED} | assistant: A"]),
        (MMLU | {"answer": 4}, "the answer is the number of a choice that isn't there"),
        (MMLU | {"answer": -1}, "the answer is the number of a choice that isn't there"),
        (MMLU | {"choices": ["1", "2"], "answer": 2}, ["user: q\nA. 1\nB. 2 | assistant: 2"]),
        (MMLU | {"choices": '["w", "x"]', "answer": 1}, ["user: q\nA. w\nB. x | assistant: B"]),
        (MMLU | {"choices": {"A": "w", "B": "x"}, "answer": "A"}, ["user: q\nA. w\nB. x | assistant: A"]),
        (MMLU | {"choices": [], "answer": "open"}, ["user: q | assistant: open"]),
        (MMLU | {"choices": "w or x"}, "the choices are text, not a list"),
        (MMLU | {"choices": [str(n) for n in range(27)]}, "more than 26 choices"),
    ]

    data = import_records(tmp_path, [record for record, _ in rows])

    assert outcomes(data, len(rows)) == [expected for _, expected in rows]
    assert findings(data) == {"skipped": 4, "choice_letter": 3, "number": 1}


@pytest.mark.parametrize(
    ("choices", "answer", "learned"),
    [
        (["3", "0", "1"], 0, "A"),  # MMLU's mathematics: the answer is a place, whatever the choices say
        (["0", "1", "2"], 1, "B"),
        (["1", "2", "0"], "1", "1"),  # a text is one of the texts
        ([1, 2, 0], 1, "1"),  # and a number one of the numbers
        ({"text": ["2", "1"], "label": ["1", "2"]}, 1, "1"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"score": 0.5}], ids=["plain", "numbers as they are spelled"])
def test_a_number_beside_choices_that_are_texts_is_a_place(
    tmp_path: Path, choices: Any, answer: Any, learned: str, more: dict[str, float]
) -> None:
    data = import_records(tmp_path, [MMLU | more | {"choices": choices, "answer": answer}])

    ((outcome,),) = outcomes(data, 1)
    assert outcome.endswith(f" | assistant: {learned}")


def test_choices_keep_the_labels_that_they_have(tmp_path: Path) -> None:
    data = import_records(tmp_path, [ARC, ARC | {"question": "r"}])

    assert outcomes(data, 1) == [["user: q\n1. w\n2. x | assistant: 2"]]


def test_other_names_are_found(tmp_path: Path) -> None:
    for prompt, answer in (("problem", "solution"), ("Question", "Correct Answer"), ("question", "response")):
        data = import_records(tmp_path, [{"id": 1, prompt: "q", answer: "a"}])
        assert (data.report.format, outcomes(data, 1)) == ("question_answer", [["user: q | assistant: a"]])


def test_each_answer_is_a_row_where_all_are_asked_for(tmp_path: Path) -> None:
    data = import_records(tmp_path, [ROW | {"answer": ["c", "d", "c"]}], alternatives="all")

    assert outcomes(data, 1) == [["user: q | assistant: c", "user: q | assistant: d"]]


def test_a_csv_keeps_its_cells_as_they_are(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.csv", b"question,answer\n1+1,002\nNA,null\n")

    assert outcomes(data, 3)[1:] == [["user: 1+1 | assistant: 002"], ["user: NA | assistant: null"]]


def test_the_answer_and_its_end_are_learned(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [MMLU])

    assert trained(tmp_path, row) == (
        f"<|im_start|>user\n{LETTERED}<|im_end|>\n<|im_start|>assistant\nC<|im_end|>\n",
        "C",
    )


ELI5 = {
    "q_id": "5lchat",
    "title": "Why is the sky blue?",
    "selftext": "I know that the sea mirrors it.",
    "answers": {
        "a_id": ["a", "b", "c"],
        "text": ["It is far.", "Air scatters blue.", "No."],
        "score": [3, 9, -1],
    },
    "title_urls": {"url": []},
}


def test_of_answers_with_scores_the_best_is_learned(tmp_path: Path) -> None:  # ELI5
    data = import_records(tmp_path, [ELI5, ELI5 | {"title": "And the sea?", "selftext": ""}])

    assert data.report.format == "question_answer"
    assert outcomes(data, 2) == [
        ["user: Why is the sky blue?\n\nI know that the sea mirrors it. | assistant: Air scatters blue."],
        ["user: And the sea? | assistant: Air scatters blue."],
    ]
    assert {finding.kind for finding in data.report.findings} >= {"ranked_answers"}


@pytest.mark.parametrize(
    ("answers", "order"),
    [
        ([{"text": "a", "pm_score": 1}, {"text": "b", "pm_score": 4}], ["b", "a"]),
        ([{"answer": "a", "rank": 2.0}, {"answer": "b", "rank": 1.0}], ["b", "a"]),
        ([{"body": "a", "score": 0.25}, {"body": "b", "score": 0.25}], ["a", "b"]),
        ([{"text": "a", "score": 1}, {"text": "b"}], ["a", "b"]),  # not all have one: their order counts
        ([{"text": "a", "score": True}, {"text": "b", "score": False}], ["a", "b"]),
        ({"text": ["a", "b"], "score": [1, 2], "more": ["x"]}, ["b", "a"]),
        ({"text": ["a", "b"], "answer_start": [5, 9]}, ["a", "b"]),
    ],
)
def test_ranked_answers_come_from_the_best_to_the_worst(
    tmp_path: Path, answers: object, order: list[str]
) -> None:
    data = import_records(tmp_path, [{"question": "q", "answers": answers}], alternatives="all")

    assert outcomes(data, 1) == [[f"user: q | assistant: {answer}" for answer in order]]
