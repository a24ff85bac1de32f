"""Raw text in a column, or as the records themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings, import_bytes

ROWS: list[tuple[Any, Any]] = [
    ("a", ["a"]),
    ("a ", ["a "]),
    ("\ta\n\n b", ["\ta\n\n b"]),
    ("a\r\nb\rc\u2028d", ["a\r\nb\rc\u2028d"]),
    ("Ä\u0301 数 😀", ["Ä\u0301 数 😀"]),
    ("<|endoftext|>a</s>", ["<|endoftext|>a</s>"]),
    ("\x00\x1b[31m\u202e", ["\x00\x1b[31m\u202e"]),
    ("0123", ["0123"]),
    (123, ["123"]),
    (1.5, ["1.5"]),
    (True, ["true"]),
    ("a", MERGED),
    ("[1, 2]", ["[1, 2]"]),
    ('{"text": "a"}', ['{"text": "a"}']),
    ("<human>: a\n<bot>: b", ["<human>: a\n<bot>: b"]),
    ("x" * 50_000, ["x" * 50_000]),
    ("", "no text"),
    (" \n\t", "no text"),
    ("\u3000", "no text"),
    (None, "'text' is null, not text"),
    (["a"], "'text' is a list, not text"),
    ({"a": 1}, "'text' is an object, not text"),
]


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [{"text": text, "url": "u"} for text, _ in ROWS])

    assert data.report.format == "text"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (22, 15, 6, 1, 15)
    assert findings(data) == {"skipped": 6, "duplicates": 1, "number": 3}


@pytest.mark.parametrize(
    "name", ["content", "document", "body", "raw_content", "code", "Article", "sentence"]
)
def test_other_names_are_found(tmp_path: Path, name: str) -> None:
    data = import_records(tmp_path, [{name: "a", "id": 1}])

    assert (data.report.format, outcomes(data, 1)) == ("text", [["a"]])


def test_records_may_be_the_texts_themselves(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.json", b'["a", "b", 3, null, ""]')

    assert [row.text for row in data] == ["a", "b"]
    assert data.report.skipped == 3


def test_a_text_is_learned_whole_with_an_end(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [{"text": "a hello"}])

    assert trained(tmp_path, row) == ("a hello", " hello")


def test_an_object_among_bare_texts_is_skipped_by_name(tmp_path: Path) -> None:
    data = import_records(tmp_path, ["a hello", "a good day", {}])

    assert outcomes(data, 3) == [["a hello"], ["a good day"], "an object in place of a text"]
