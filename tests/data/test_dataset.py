"""Imported rows by index."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import pytest

from qlora_studio.data import rows_writer as module
from qlora_studio.data.conversation import Message, ToolCall
from qlora_studio.data.dataset import open_dataset
from qlora_studio.errors import StudioError
from tests.data.imported_files import import_bytes


def _rows(count: int) -> bytes:
    return b"".join(b'{"question": "Q%d?", "answer": "A%d"}\n' % (number, number) for number in range(count))


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_IN_HAND", 7)
    monkeypatch.setattr(module, "_BATCH_BYTES", 300)


def test_rows_come_by_index_by_range_and_in_order(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.jsonl", _rows(20))

    assert [row.messages[0].content for row in data] == [f"Q{number}?" for number in range(20)]
    assert [data.row(index) for index in range(20)] == list(data)
    assert data.rows(5, 4) == list(data)[5:9]
    assert data.rows(18, 10) == list(data)[18:]
    with pytest.raises(IndexError):
        data.row(20)


def test_search_finds_text_in_any_turn_whatever_its_case(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.jsonl", _rows(20))

    rows, total = data.search("q1", 1, 3)

    assert (total, [row.row for row in rows]) == (11, [10, 11, 12])
    assert data.search("a19", 0, 5)[1] == 1
    assert data.search(".", 0, 5) == ([], 0)
    assert data.search("", 2, 1) == (data.rows(2, 1), 20)


def test_search_finds_text_rows(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.txt", b"one\ntwo\nthree\n")

    assert [row.text for row in data.search("T", 0, 5)[0]] == ["two", "three"]


def test_everything_a_message_has_is_kept(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a", "name": "Ann"},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "b", "tool_call_id": "c"},
        {"role": "assistant", "content": "d", "loss_weight": 0.5, "reasoning": "because"},
    ]
    record = {"messages": turns, "tools": [{"name": "f"}]}

    data = import_bytes(tmp_path / "rows.jsonl", json.dumps(record).encode())

    assert data.row(0).messages == (
        Message("user", "a", name="Ann"),
        Message("assistant", "", tool_calls=(ToolCall(name="f", arguments="{}", id="c"),)),
        Message("tool", "b", tool_call_id="c"),
        Message("assistant", "d", loss_weight=0.5, reasoning="because"),
    )
    assert data.row(0).tools == '[{"name": "f"}]'


def test_the_source_is_gone_when_the_file_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    data = import_bytes(file, _rows(2))
    file.write_bytes(_rows(3))

    assert data.row(1, source=True).source is None
    assert data.row(1).messages[1].content == "A1"


def test_a_page_of_rows_has_their_sources_across_batches(tmp_path: Path) -> None:
    lines = _rows(30).decode().splitlines()
    data = import_bytes(tmp_path / "rows.jsonl", _rows(30))

    page = data.rows(3, 25, source=True)
    found, _ = data.search("q2", 0, 20, source=True)

    assert [row.source for row in page] == lines[3:28]
    assert [row.source for row in found] == [line for line in lines if '"Q2' in line]
    assert [row.row for row in found] == [2, *range(20, 30)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_a_source_that_has_become_a_pipe_does_not_hang(tmp_path: Path) -> None:  # D1
    data = import_bytes(tmp_path / "rows.jsonl", _rows(2))
    (tmp_path / "rows.jsonl").unlink()
    os.mkfifo(tmp_path / "rows.jsonl")

    assert [row.source for row in data.rows(0, 2, source=True)] == [None, None]


def test_a_long_source_is_cut_between_characters(tmp_path: Path) -> None:  # S8
    data = import_bytes(
        tmp_path / "rows.jsonl", json.dumps({"text": "é" * 30_000}, ensure_ascii=False).encode()
    )

    source = data.row(0, source=True).source

    assert source is not None
    assert len(source) == 10_000
    assert source.endswith("éé")


def test_the_folder_is_a_data_set_for_others_too(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.jsonl", _rows(20))

    loaded = datasets.load_from_disk(str(data.folder))

    assert len(loaded) == 20
    assert loaded[19]["messages"][1]["content"] == "A19"


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="holds no imported data"):
        open_dataset(tmp_path)
