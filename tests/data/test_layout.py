"""Formats, found by what the columns are called and what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.data.layout import find_layout
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_bytes, reasons, turns

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHAREGPT = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("record", "format", "fields"),
    [
        (
            {"instruction": "a", "input": "", "output": "b", "system": "s", "history": []},
            "alpaca",
            "prompt=instruction answer=output input=input system=system history=history",
        ),
        (
            {"instruction": "a", "context": "", "response": "b", "category": "qa"},
            "alpaca",
            "prompt=instruction answer=response input=context",
        ),
        ({"messages": TURNS, "tools": "[]"}, "messages", "messages=messages tools=tools"),
        ({"id": 1, "conversations": SHAREGPT}, "sharegpt", "messages=conversations"),
        ({"conversations": TURNS}, "messages", "messages=conversations"),
        ({"talk": TURNS, "system": "s"}, "messages", "messages=talk system=system"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion", "prompt=prompt answer=completion"),
        ({"Prompt": "a", "Response": "b"}, "prompt_completion", "prompt=Prompt answer=Response"),
        ({"subject": "s", "input": "a", "output": "b"}, "prompt_completion", "prompt=input answer=output"),
        ({"question": "a", "answer": "b"}, "question_answer", "prompt=question answer=answer"),
        ({"text": "a", "url": "b", "id": "c"}, "text", "text=text"),
        ({"sentence": "a", "id": 1}, "text", "text=sentence"),
        ({"english": "a", "french": "b"}, "prompt_completion", "prompt=english answer=french"),
    ],
)
def test_the_format_is_found(record: dict[str, Any], format: str, fields: str) -> None:
    guess = find_layout([record] * 3, "auto", {}, "rows.jsonl")

    assert guess.layout.format == format
    assert guess.layout.map == dict(field.split("=") for field in fields.split())
    assert guess.reason


HH = "\n\nHuman: a\n\nAssistant: b"
INSTANCES = [{"input": "", "output": "b"}]
UNNATURAL = [{"instruction_with_input": "a", "input": "", "output": "b", "constraints": "None."}]
MESSAGE = {"message_id": "m", "parent_id": None, "text": "a", "role": "prompter", "rank": None}


@pytest.mark.parametrize(
    ("record", "format", "fields"),
    [
        ({"inputs": "a", "targets": "b", "task": "t"}, "flan", "prompt=inputs answer=targets"),
        (
            {"input": "a", "output": "b", "source": "C4", "subset": "train"},
            "longform",
            "prompt=input answer=output",
        ),
        (
            {"instruction": "a", "instances": INSTANCES},
            "self_instruct",
            "prompt=instruction instances=instances",
        ),
        (
            {"prompt": "a\nOutput:", "completion": " b<|endoftext|>"},
            "self_instruct",
            "prompt=prompt answer=completion",
        ),
        (
            {"instruction": "a", "instances": UNNATURAL, "reformulations": None},
            "unnatural_instructions",
            "instances=instances prompt=instruction reformulations=reformulations",
        ),
        (
            MESSAGE | {"deleted": False, "tree_state": "ready_for_export"},
            "oasst",
            "id=message_id parent=parent_id text=text role=role rank=rank deleted=deleted state=tree_state",
        ),
        (
            {"message_tree_id": "m", "tree_state": "ready_for_export", "prompt": MESSAGE | {"replies": []}},
            "oasst",
            "tree=prompt state=tree_state",
        ),
        ({"text": "### Human: a### Assistant: b"}, "oasst", "text=text"),
        ({"text": "<human>: a\n<bot>: b", "metadata": "{}"}, "chip2", "text=text"),
        ({"chosen": HH, "rejected": HH}, "hh_rlhf", "chosen=chosen rejected=rejected"),
        (
            {"prompt": HH + "\n\nHuman: c\n\nAssistant:", "response": " d"},
            "hh_rlhf",
            "prompt=prompt answer=response",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "preference",
            "chosen=chosen rejected=rejected prompt=prompt",
        ),
        (
            {"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 1},
            "preference",
            "first=response_0 second=response_1 better=better_response_id prompt=prompt",
        ),
        (
            {"prompt": "a", "completion": "b", "label": True},
            "kto",
            "prompt=prompt answer=completion label=label",
        ),
        ({"messages": TURNS, "kto_tag": True}, "kto", "messages=messages label=kto_tag"),
        (
            {"question": "a", "choices": ["x", "y"], "answer": 1},
            "question_answer",
            "prompt=question answer=answer choices=choices",
        ),
        ({"data": ["a", "b", "c", "d"], "id": "1"}, "messages", "messages=data"),
        ({"messages": TURNS, "images": []}, "messages", "messages=messages media=images"),
    ],
)
def test_formats_with_a_form_of_their_own_are_found(record: dict[str, Any], format: str, fields: str) -> None:
    guess = find_layout([record] * 3, "auto", {}, "rows.jsonl")

    assert guess.layout.format == format
    assert guess.layout.map == dict(field.split("=") for field in fields.split())


def test_a_format_is_taken_where_most_of_the_rows_can_be_read_so() -> None:
    alpaca, chat = {"instruction": "a", "output": "b"}, {"messages": TURNS}

    guess = find_layout([chat, alpaca, alpaca, alpaca], "auto", {}, "rows.jsonl")

    assert guess.layout.format == "alpaca"
    assert "Of the first 4 rows 1 can't be read so." in guess.reason


def test_another_way_to_read_the_rows_is_said() -> None:
    guess = find_layout([{"instruction": "a", "output": "b", "text": "a b"}], "auto", {}, "rows.jsonl")

    assert guess.reason == (
        "It has 'instruction' and 'output'. It could also be read as text; this says more. Not used: 'text'."
    )


def test_a_number_that_could_mean_either_answer_is_no_preference() -> None:
    record = {"prompt": "a", "response_a": "b", "response_b": "c", "preference": 1}

    with pytest.raises(
        StudioError, match="no column of 'prompt', 'response_a', 'response_b', 'preference' says"
    ):
        find_layout([record], "auto", {}, "rows.jsonl")


def test_ratings_of_three_kinds_are_not_taken_for_good_and_bad() -> None:
    records = [{"prompt": "a", "completion": "b", "label": label} for label in (-1, 0, 1)]

    assert find_layout(records, "auto", {}, "rows.jsonl").layout.format == "prompt_completion"


def test_a_mapping_of_a_part_is_completed_by_the_usual_names() -> None:
    record = {"question": "a", "reply": "b", "grade": "good"}

    guess = find_layout([record], "kto", {"answer": "reply", "label": "grade"}, "rows.jsonl")

    assert guess.layout.map == {"answer": "reply", "label": "grade", "prompt": "question"}


def test_what_cannot_be_guessed_is_refused_with_a_command_that_says_how_to_map() -> None:
    records = [{"Frage": "a", "Antwort": "b", "quelle": "c"}]

    with pytest.raises(StudioError) as error:
        find_layout(records, "auto", {}, "rows.jsonl")

    assert "--map prompt=Frage --map answer=Antwort." in error.value.hint


@pytest.mark.parametrize(
    ("format", "chosen", "words"),
    [
        ("auto", {}, "no column of 'a', 'b', 'c' says"),
        ("alpaca", {}, "no column of 'a', 'b', 'c' says"),
        ("alpaka", {}, "There is no data format 'alpaka'"),
        ("auto", {"prompt": "a"}, "a mapping names prompt and answer"),
        ("auto", {"prompt": "a", "answer": "z"}, "has no column 'z' for answer"),
        ("auto", {"question": "a"}, "There is no field 'question'"),
        ("auto", {"chosen": "a"}, "a mapping names prompt and answer, or text, or messages, or chosen and"),
        (
            "kto",
            {"prompt": "a", "answer": "b"},
            "a mapping names prompt and answer and label, or messages and",
        ),
    ],
)
def test_what_cannot_be_mapped_is_refused(format: str, chosen: dict[str, str], words: str) -> None:
    with pytest.raises(StudioError, match=words):
        find_layout([{"a": "x", "b": "y", "c": "z"}], format, chosen, "rows.jsonl")


@pytest.mark.parametrize(
    ("record", "words"), [({}, "an object without columns"), (1, "a number"), ([], "a list")]
)
def test_records_without_columns_are_refused(record: Any, words: str) -> None:
    with pytest.raises(StudioError, match=f"its first rows are {words}"):
        find_layout([record], "auto", {}, "rows.jsonl")


def test_columns_chosen_by_hand_win(tmp_path: Path) -> None:
    content = json.dumps({"question": "no", "answer": "no", "a": "x", "b": "y", "s": "z"}).encode()

    data = import_bytes(tmp_path / "rows.jsonl", content, map={"prompt": "a", "answer": "b", "system": "s"})

    assert turns(data.row(0)) == [("system", "z"), ("user", "x"), ("assistant", "y")]
    assert data.report.map == {"prompt": "a", "answer": "b", "system": "s"}


def test_alpaca_puts_input_below_the_instruction_and_history_before_it(tmp_path: Path) -> None:
    record = {"instruction": "a", "input": "i", "output": "b", "history": [["q1", "a1"], ["q2", "a2"]]}

    data = import_bytes(tmp_path / "rows.json", json.dumps([record, record | {"input": ""}]).encode())

    assert [content for _, content in turns(data.row(0))] == ["q1", "a1", "q2", "a2", "a\n\ni", "b"]
    assert turns(data.row(1))[-2] == ("user", "a")


def test_prompt_and_completion_may_be_turns(tmp_path: Path) -> None:
    record = {"prompt": TURNS[:1], "completion": TURNS[1:]}

    data = import_bytes(tmp_path / "rows.jsonl", json.dumps(record).encode())

    assert turns(data.row(0)) == [("user", "a"), ("assistant", "b")]


def test_turns_in_the_cells_of_a_csv_are_chats(tmp_path: Path) -> None:
    cell = json.dumps(SHAREGPT).replace('"', '""')

    data = import_bytes(tmp_path / "rows.csv", f'id,conversations\n1,"{cell}"\n'.encode())

    assert data.report.format == "sharegpt"
    assert turns(data.row(0)) == [("user", "a"), ("assistant", "b")]


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.jsonl", b'{"prompt": "a", "completion": "b", "score": 1}')

    assert data.report.guess.endswith("Not used: 'score'.")
    assert data.report.columns == ("prompt", "completion", "score")


def test_a_guess_without_known_names_is_said_to_be_one(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.csv", b"english,french\none,un\n")

    assert findings(data) == {"guess": 1}


def test_a_text_beside_another_of_its_length_is_only_a_guess(tmp_path: Path) -> None:
    rows = [{"ticket": n, "body": f"Printer {n} broke", "resolution": "Turn it off and on"} for n in range(3)]

    data = import_bytes(tmp_path / "rows.json", json.dumps(rows).encode())

    assert data.report.format == "text"
    assert [finding.words for finding in data.report.findings] == [
        "The column 'body' holds text. Not used: 'ticket', 'resolution'."
    ]


def test_a_text_beside_its_label_is_only_a_guess() -> None:
    assert not find_layout([{"text": "I like it", "label": 1}] * 3, "auto", {}, "rows.jsonl").sure
    assert find_layout([{"text": "I like it", "label": 1}] * 3, "text", {}, "rows.jsonl").sure


@pytest.mark.parametrize("record", [{"text": "a b", "title": "c d"}, {"body": "a long text", "title": "b"}])
def test_a_text_with_little_beside_it_is_sure(record: dict[str, Any]) -> None:
    assert find_layout([record] * 3, "auto", {}, "rows.jsonl").sure


def test_what_stands_where_text_belongs_is_converted_or_skipped(tmp_path: Path) -> None:  # D4
    answers = ["1e5", "0.10", "true", "null", '[["a"]]', '{"a": 1}', '""', '["a"]']
    content = "\n".join(f'{{"question": "q", "answer": {answer}}}' for answer in answers).encode()

    data = import_bytes(tmp_path / "rows.jsonl", content)

    assert [row.messages[1].content for row in data] == ["1e5", "0.10", "true", "a"]
    assert findings(data)["number"] == 3
    assert reasons(data) == {
        "'answer' is null, not text": [4],
        "'answer' is a list, not text": [5],
        "'answer' is an object, not text": [6],
        "no answer": [7],
    }


def test_rows_without_the_columns_are_skipped(tmp_path: Path) -> None:
    content = b'{"question": "q", "answer": "a"}\n{"question": "q"}\n["q", "a"]\n"q"\n'

    assert reasons(import_bytes(tmp_path / "rows.jsonl", content)) == {
        "no column 'answer'": [2],
        "a list in place of an object with columns": [3],
        "text in place of an object with columns": [4],
    }
