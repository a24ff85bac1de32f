"""A column that only late records have is read as if the first ones had it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.data import sampled_rows
from qlora_studio.data.dataset import Dataset
from tests.data.imported_files import import_path, turns
from tests.data.test_doctor import chat

MANY = 1000  # far more records than are looked at to find the format
SYSTEM = "Be brief."


def plain(i: int) -> dict[str, Any]:
    return {"instruction": f"What is {i}?", "output": f"It is {i}."}


def lines(folder: Path, *records: dict[str, Any]) -> Dataset:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return import_path(file)


@pytest.mark.parametrize("late", [{"input": "Of all."}, {"Input": "Of all."}])
def test_an_input_below_a_late_instruction_is_learned(tmp_path: Path, late: dict[str, str]) -> None:  # D3
    rows = lines(tmp_path, *map(plain, range(MANY)), plain(MANY) | late, plain(MANY + 1))

    assert turns(rows.row(MANY))[0] == ("user", f"What is {MANY}?\n\nOf all.")
    assert (rows.report.rows_in, rows.report.imported) == (MANY + 2, MANY + 2)
    assert rows.report.map["input"] in late


def test_several_late_columns_are_found_one_after_the_other(tmp_path: Path) -> None:  # D3
    rows = lines(
        tmp_path,
        *map(plain, range(MANY)),
        plain(MANY) | {"history": [["a", "b"]]},
        plain(MANY + 1) | {"system": SYSTEM},
    )

    assert [role for role, _ in turns(rows.row(MANY))] == ["user", "assistant"] * 2
    assert turns(rows.row(MANY + 1))[0] == ("system", SYSTEM)


def test_a_chat_that_is_the_first_with_a_system_text_keeps_it(tmp_path: Path) -> None:  # D3
    chats = [chat(f"What is {i}?", "It is.") for i in range(MANY)]

    rows = lines(tmp_path, *chats, chat("And you?", "I am.") | {"system": SYSTEM})

    assert turns(rows.row(MANY))[0] == ("system", SYSTEM)


def test_a_late_picture_is_told_and_not_left_aside(tmp_path: Path) -> None:  # D3
    chats = [chat(f"What is {i}?", "It is.") for i in range(MANY)]

    rows = lines(tmp_path, *chats, chat("And this?", "A fox.") | {"images": ["fox.png"]})

    assert (rows.report.imported, rows.report.skipped) == (MANY, 1)
    assert rows.report.problems[0].line == MANY + 1


def test_a_message_of_a_tree_that_is_the_first_deleted_one_is_not_learned(tmp_path: Path) -> None:  # D3
    asked = [
        {"message_id": f"p{i}", "parent_id": None, "role": "prompter", "text": f"What is {i}?"}
        for i in range(MANY)
    ]
    said: list[dict[str, Any]] = [
        {"message_id": f"a{i}", "parent_id": f"p{i}", "role": "assistant", "text": f"It is {i}."}
        for i in range(MANY)
    ]
    said[-1]["deleted"] = True

    rows = lines(tmp_path, *asked, *said)

    assert rows.report.format == "oasst"
    assert len(rows) == MANY - 1
    assert {problem.reason: problem.lines for problem in rows.report.problems}["deleted"] == (2 * MANY,)


def test_late_columns_that_say_nothing_or_do_not_count_are_left_aside(tmp_path: Path) -> None:
    rows = lines(tmp_path, *map(plain, range(MANY)), plain(MANY) | {"input": "", "id": 7, "source": "web"})

    assert turns(rows.row(MANY))[0] == ("user", f"What is {MANY}?")
    assert "input" not in rows.report.map


def test_a_list_and_lines_give_the_same_rows(tmp_path: Path) -> None:
    records = [*map(plain, range(MANY)), plain(MANY) | {"input": "Of all."}]
    listed = tmp_path / "rows.json"
    listed.write_text(json.dumps(records, indent=1), "utf-8")

    of_lines, of_list = lines(tmp_path, *records), import_path(listed)

    assert [turns(row) for row in of_list] == [turns(row) for row in of_lines]


def test_columns_chosen_by_hand_are_all_that_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    records = [*map(plain, range(MANY)), plain(MANY) | {"input": "Of all."}]
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")

    rows = import_path(file, map={"prompt": "instruction", "answer": "output"})

    assert turns(rows.row(MANY))[0] == ("user", f"What is {MANY}?")


def test_no_name_is_looked_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_rows, "MAX_COLUMNS", 2)  # no third one is looked at

    rows = lines(tmp_path, *map(plain, range(MANY)), plain(MANY) | {"input": "Of all."})

    assert len(rows) == MANY + 1
