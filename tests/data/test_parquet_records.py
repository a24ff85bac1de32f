"""Parquet: strings, also as bytes, numbers, lists and structs of them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qlora_studio.data import column_records
from qlora_studio.data.conversation import ToolCall
from qlora_studio.data.dataset import Dataset
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_path, reasons, turns


def test_structs_in_lists_are_chats(tmp_path: Path) -> None:
    call = [{"id": "c1", "function": {"name": "add", "arguments": "{}"}}]
    chat = [
        {"role": "user", "content": "2 + 2?", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "4", "tool_calls": None},
        {"role": "assistant", "content": "4", "tool_calls": None},
    ]

    data = _imported(tmp_path, {"messages": [chat, None]})

    assert turns(data.row(0)) == [("user", "2 + 2?"), ("assistant", ""), ("tool", "4"), ("assistant", "4")]
    assert data.row(0).messages[1].tool_calls == (ToolCall(name="add", id="c1"),)
    assert reasons(data) == {"the turns are null, not a list": [2]}
    assert data.report.encoding == "binary"


def test_numbers_become_text_as_json_spells_them(tmp_path: Path) -> None:  # D4 D10
    columns = {"question": ["a", "b", "c"], "answer": [1.5, 1e300, None]}

    data = _imported(tmp_path, columns)

    assert [row.messages[1].content for row in data] == ["1.5", "1e+300"]
    assert reasons(data) == {"'answer' is null, not text": [3]}
    assert findings(data)["number"] == 2


def test_what_is_no_text_number_list_or_struct_is_left_alone(tmp_path: Path) -> None:  # D10
    columns = {
        "question": pa.array(["a"]).dictionary_encode(),
        "answer": pa.array(["b"], pa.large_string()),
        "image": [{"bytes": b"\x89PNG", "path": "/etc/passwd"}],
        "when": [datetime.datetime(2026, 1, 1)],
    }

    data = _imported(
        tmp_path, columns, metadata={"huggingface": '{"info": {"features": {"question": {"_type": "x"}}}}'}
    )

    assert turns(data.row(0)) == [("user", "a"), ("assistant", "b")]
    assert data.report.columns == ("question", "answer")


def test_a_row_has_its_number_for_a_line_and_no_source(tmp_path: Path) -> None:
    data = _imported(tmp_path, {"text": [f"text {number}" for number in range(200)]})

    assert (data.row(199).line, data.row(199, source=True).source) == (200, None)


@pytest.mark.parametrize("kept", [12, 200, -1])
def test_a_broken_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a" * 100, "b" * 100]}), file, compression="none")
    content = bytearray(file.read_bytes())
    content[kept:-8] = b"\x00" * len(content[kept:-8])
    content[-20:-10] = b"\xff" * 10
    file.write_bytes(content)

    with pytest.raises(StudioError, match=r"rows\.parquet is broken Parquet"):
        import_path(file)


def test_a_file_without_a_column_that_can_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="no column with text"):
        _imported(tmp_path, {"when": [datetime.datetime(2026, 1, 1)]})


def test_a_column_of_bytes_that_begins_empty_is_read(tmp_path: Path) -> None:
    late = pa.array([None] * 80 + [b"late"], pa.binary())

    data = _imported(
        tmp_path, {"instruction": [f"a {n}" for n in range(81)], "input": late, "output": ["b"] * 81}
    )

    assert turns(data.row(80))[0] == ("user", "a 80\n\nlate")


def test_texts_that_no_column_calls_so_are_read(tmp_path: Path) -> None:  # as Spark once wrote them
    columns = {
        "question": pa.array(["é".encode(), b"a\xff", b"c"], pa.binary()),
        "answer": pa.array([b"1", b"2", None], pa.large_binary()),
        "image": [b"\x89PNG"] * 3,  # left alone
    }

    data = _imported(tmp_path, columns)

    assert turns(data.row(0)) == [("user", "é"), ("assistant", "1")]
    assert reasons(data) == {
        "'question' is bytes that are no UTF-8, not text": [2],
        "'answer' is null, not text": [3],
    }


def test_a_small_file_that_holds_very_much_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # D6
    monkeypatch.setattr(column_records, "_SMALL_BYTES", 1_000)

    with pytest.raises(StudioError, match="more than 200 times its size"):
        _imported(tmp_path, {"text": ["x" * 50_000] * 400, "id": list(range(400))})


def test_too_many_columns_are_refused(tmp_path: Path) -> None:  # D6
    with pytest.raises(StudioError, match="513 columns; at most 512"):
        _imported(tmp_path, {f"c{number}": ["x"] for number in range(513)})


def test_content_wins_over_the_name(tmp_path: Path) -> None:  # D7
    file = tmp_path / "rows.csv"
    pq.write_table(pa.table({"text": ["a"]}), file)

    assert findings(import_path(file)) == {"name": 1}


def _imported(folder: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> Dataset:
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, folder / "rows.parquet")
    return import_path(folder / "rows.parquet")
