"""`data` looks for what is odd, mends it when asked, and saves what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.cli import data_doctor
from qlora_studio.cli.main import build_parser, run_command

ANSWER = "The Rhine flows from the Alps to the North Sea and passes many old towns with castles on its hills"
ROWS = (
    {"question": "And the Rhine?", "answer": ANSWER},
    {"question": "And the Rhine?", "answer": ANSWER.replace("many", "some")},
    {"question": "And you?", "answer": "I'm sorry, but I can't help with that."},
    {"question": "Red?", "answer": "A colour."},
)


@pytest.fixture
def file(tmp_path: Path) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return str(file)


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert run_command(build_parser().parse_args(["data", *words])) == status
    return capsys.readouterr().out


def answer(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(capsys, *words, "--json", status=status))
    return found


def test_findings_tell_kind_count_rows_and_fix(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, file)

    findings = {finding["kind"]: finding for finding in found["findings"]}
    assert found["doctor"] is True
    assert findings["near_duplicates"]["rows"] == [1]
    assert findings["near_duplicates"]["groups"] == [[0, 1]]
    assert findings["refusals"]["fix"] == {"kind": "refusals"}
    assert findings["refusals"]["count"] == 1


def test_fixes_are_applied_in_their_order_and_counted(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, file, "--fix", "refusals", "--fix", "near_duplicates", "--show", "9")

    assert [row["line"] for row in found["rows"]] == [1, 4]
    assert [(fix["fix"]["kind"], fix["left_out"]) for fix in found["fixes"]] == [
        ("refusals", 1),
        ("near_duplicates", 1),
    ]
    assert (found["rows_in"], found["imported"], found["left_out_by_fixes"]) == (4, 4, 2)
    assert found["findings"] == []


def test_rows_of_a_test_file_are_found_and_left_out(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"question": "Red?", "answer": "Blue"}) + "\n", "utf-8")

    found = answer(capsys, file, "--test", str(test))
    left = answer(capsys, file, "--test", str(test), "--fix", "test_rows", "--show", "9")

    assert [finding["rows"] for finding in found["findings"] if finding["kind"] == "test_rows"] == [[3]]
    assert [row["line"] for row in left["rows"]] == [1, 2, 3]


def test_a_test_file_has_its_own_encoding(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # D5
    test = tmp_path / "test.jsonl"
    test.write_bytes('{"question": "Red?", "answer": "Une élève"}\n'.encode("cp1252"))
    named = ("--test", str(test), "--test-encoding", "windows-1252")

    refused = answer(capsys, file, "--test", str(test), status=2)
    left = answer(capsys, file, *named, "--fix", "test_rows", "--show", "9")

    assert "test.jsonl: line 1 is not UTF-8" in refused["error"]["message"]
    assert "--test-encoding" in refused["error"]["hint"]
    assert [row["line"] for row in left["rows"]] == [1, 2, 3]


def test_a_saved_copy_holds_what_is_left(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = str(tmp_path / "copy.jsonl")

    saved = answer(capsys, file, "--fix", "refusals", "--save-copy", copy)
    again = answer(capsys, copy, "--show", "9")
    refused = answer(capsys, file, "--save-copy", copy, status=2)

    assert (saved["copy"]["rows"], saved["copy"]["sha256"]) == (3, again["sha256"])
    assert len(again["rows"]) == 3
    assert "there already" in refused["error"]["message"]


def test_several_files_are_mixed(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n", "utf-8")

    found = answer(capsys, file, str(other))

    assert (found["rows_in"], found["conversations"], len(found["parts"])) == (5, 5, 2)


def test_a_person_reads_what_was_found_and_how_it_is_mended(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, file, "--fix", "near_duplicates")

    assert "warn: 1 row has an answer that refuses" in text
    assert "Leave out 1 row: --fix refusals" in text
    assert "fix near_duplicates: left out 1" in text
    assert "3 conversations are left" in text


def test_many_rows_are_looked_at_only_when_asked(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_doctor, "MOST_UNASKED", 3)

    assert "--doctor only" in said(capsys, file)
    assert answer(capsys, file)["doctor"] is False
    assert answer(capsys, file, "--doctor")["doctor"] is True


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--fix", "test_rows"), "leaves out the rows of a file"),
        (("--fix", "near_duplicates", "--threshold", "0.1"), "between 0.7 and 1"),
        (("--threshold", "0.1"), "between 0.7 and 1"),
        (("--test", "gone.jsonl"), "gone.jsonl"),
    ],
)
def test_what_can_not_be_done_is_refused_with_its_reason(
    file: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str
) -> None:
    assert reason in answer(capsys, file, *words, status=2)["error"]["message"]
