"""Plain text: what a row of it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_studio.data import file_records, lines, text_records
from qlora_studio.errors import StudioError
from tests.data.imported_files import import_bytes, reasons


def test_without_blank_lines_each_line_is_a_row(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "lines.txt", " one\u2028still one \r\ntwo\rthree\n".encode())

    assert [(row.line, row.text) for row in data] == [(1, " one\u2028still one "), (2, "two"), (3, "three")]
    assert data.report.format == "text"
    assert "Each line is a row" in data.report.guess


def test_with_blank_lines_whole_paragraphs_are_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_records, "GATHERED_BYTES", 12)
    content = b"\n\none\nmore\n\n  \ntwo\n\nthree\n\na long paragraph\n\nfour\n\n"

    data = import_bytes(tmp_path / "book.md", content)

    assert [(row.line, row.text) for row in data] == [
        (3, "one\nmore"),
        (7, "two\n\nthree"),
        (11, "a long paragraph"),
        (13, "four"),
    ]
    assert data.row(1, source=True).source == "two\n\nthree"
    assert "Blank lines part paragraphs" in data.report.guess


def test_a_line_over_the_limit_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # D6
    for module in (lines, text_records, file_records):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 10)
    content = ("one\n" + "é" * 9 + "\ntwo\n").encode()

    data = import_bytes(tmp_path / "lines.txt", content)

    assert [row.text for row in data] == ["one", "two"]
    assert list(reasons(data).values()) == [[2]]


def test_a_text_column_is_text_too(tmp_path: Path) -> None:
    data = import_bytes(
        tmp_path / "rows.jsonl", b'{"text": " a\\n", "id": 1}\n{"text": ""}\n{"text": null}\n'
    )

    assert [row.text for row in data] == [" a\n"]
    assert reasons(data) == {"no text": [2], "'text' is null, not text": [3]}


def test_json_texts_are_rows(tmp_path: Path) -> None:
    assert [row.text for row in import_bytes(tmp_path / "rows.json", b'["one", "two\\n"]')] == [
        "one",
        "two\n",
    ]


def test_a_text_of_blanks_is_empty(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="is empty"):
        import_bytes(tmp_path / "blank.txt", b" \n\t\n")
