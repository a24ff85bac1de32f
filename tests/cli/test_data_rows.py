"""What `data --show --json` says of rows that are more than a chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.cli.main import build_parser, run_command
from tests.reader.whole_t5 import whole_t5


def shown(capsys: pytest.CaptureFixture[str], file: Path, records: list[Any], *words: str) -> dict[str, Any]:
    file.write_text("\n".join(json.dumps(record) for record in records))
    arguments = build_parser().parse_args(["data", str(file), "--show", "9", "--json", *words])
    assert run_command(arguments) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def said(messages: list[dict[str, str]]) -> list[str]:
    return [f"{message['role']}: {message['content']}" for message in messages]


def test_pairs_show_both_chats_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, tmp_path / "a.jsonl", [{"prompt": "p", "chosen": "c", "rejected": "r"}])

    (row,) = found["rows"]
    assert found["format"] == "preference"
    assert said(row["chosen"]) == ["user: p", "assistant: c"]
    assert said(row["rejected"]) == ["user: p", "assistant: r"]
    assert "messages" not in row


def test_rated_answers_show_their_rating(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c", "label": False}])

    (row,) = found["rows"]
    assert (found["format"], row["label"], said(row["messages"])) == (
        "kto",
        False,
        ["user: p", "assistant: c"],
    )


def test_one_record_may_show_several_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"question": "q", "answer": ["a", "b"]}]

    best = shown(capsys, tmp_path / "a.jsonl", records)
    each = shown(capsys, tmp_path / "a.jsonl", records, "--alternatives", "all")

    assert (best["imported"], best["conversations"], len(best["rows"])) == (1, 1, 1)
    assert (each["imported"], each["conversations"], len(each["rows"])) == (1, 2, 2)


def test_a_row_without_tokens_says_why_and_the_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = whole_t5(tmp_path / "t5")
    unasked = [{"role": "assistant", "content": "nobody asked"}]
    records = [{"messages": [{"role": "user", "content": "q"}, *unasked]}, {"messages": unasked}]
    file = tmp_path / "a.jsonl"

    found = shown(capsys, file, records, "--model", str(model))

    whole, without = found["rows"]
    assert [token["fate"] for token in whole["tokens"]][-1] == "learned"
    assert "refused" not in whole
    assert without["tokens"] == []
    assert "Line 2: It is a row without a target" in without["refused"]

    command = ["data", str(file), "--show", "9", "--model", str(model)]
    assert run_command(build_parser().parse_args(command)) == 0
    told = capsys.readouterr().out
    assert "assistant: nobody asked\nno tokens: Line 2: It is a row without a target" in told


def test_an_encoding_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # D5
    file = tmp_path / "a.csv"
    file.write_bytes("question,answer\nкак?,так\n".encode("koi8-r"))
    command = ["data", str(file), "--json", "--show", "1"]

    refused = run_command(build_parser().parse_args(command))
    said = json.loads(capsys.readouterr().out)["error"]
    read = run_command(build_parser().parse_args([*command, "--encoding", "koi8-r"]))
    found = json.loads(capsys.readouterr().out)

    assert (refused, read) == (2, 0)
    assert "--encoding" in said["hint"]
    assert found["rows"][0]["messages"][1]["content"] == "так"
