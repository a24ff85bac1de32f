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


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference training isn't built yet"),
        ({"prompt": "a", "completion": "b", "label": True}, "KTO"),
        ({"messages": TURNS, "kto_tag": True}, "KTO"),
        ({"instruction": "a", "instances": [{"input": "", "output": "b"}]}, "Self-Instruct"),
        ({"message_id": "a", "parent_id": None, "text": "b", "role": "prompter"}, "OASST"),
    ],
)
def test_formats_that_are_not_built_are_refused_by_name(record: dict[str, Any], words: str) -> None:
    with pytest.raises(StudioError, match=words):
        find_layout([record], "auto", {}, "rows.jsonl")


@pytest.mark.parametrize(
    ("format", "chosen", "words"),
    [
        ("auto", {}, "no column of 'a', 'b', 'c' says"),
        ("alpaca", {}, "no column of 'a', 'b', 'c' says"),
        ("alpaka", {}, "There is no data format 'alpaka'"),
        ("auto", {"prompt": "a"}, "a mapping names prompt and answer"),
        ("auto", {"prompt": "a", "answer": "z"}, "has no column 'z' for answer"),
        ("auto", {"question": "a"}, "There is no field 'question'"),
        ("auto", {"chosen": "a", "rejected": "b"}, "preference training isn't built yet"),
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


def test_what_stands_where_text_belongs_is_converted_or_skipped(tmp_path: Path) -> None:  # D4
    answers = ["1e5", "0.10", "true", "null", '["a"]', '{"a": 1}', '""']
    content = "\n".join(f'{{"question": "q", "answer": {answer}}}' for answer in answers).encode()

    data = import_bytes(tmp_path / "rows.jsonl", content)

    assert [row.messages[1].content for row in data] == ["1e5", "0.10", "true"]
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
