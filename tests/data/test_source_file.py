"""Files from outside, opened without trusting them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qlora_studio.data import container, source_file
from qlora_studio.data.source_file import SourceFile
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_bytes, turns

ROW = '{"question": "2 + 2?", "answer": "vier é 数 😀"}\n'


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16-le"), ("utf-16-be", "utf-16-be")],
)
def test_utf_8_and_marked_utf_16_are_read(tmp_path: Path, encoding: str, name: str) -> None:  # D5
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""

    data = import_bytes(tmp_path / "rows.jsonl", mark + ROW.encode(encoding))

    assert turns(data.row(0)) == [("user", "2 + 2?"), ("assistant", "vier é 数 😀")]
    assert data.report.encoding == name
    assert ("encoding" in findings(data)) == name.startswith("utf-16")
    assert data.row(0, source=True).source == ROW.rstrip("\n")


def test_utf_16_is_read_the_same_wherever_its_chunks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_file, "CHUNK_BYTES", 3)

    data = import_bytes(tmp_path / "rows.jsonl", ROW.encode("utf-16"))

    assert turns(data.row(0))[1] == ("assistant", "vier é 数 😀")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", ROW.encode() * 2 + b'{"question": "a", "answer": "\xe9"}\n', "line 3 is not UTF-8"),
        ("a.jsonl", b'{"question": "a", "answer": "\xe9"}\n', "line 1 is not UTF-8"),
        ("a.json", b'[{"question": "a",\n "answer": "\xe9"}]', "line 2 is not UTF-8"),
        ("a.csv", b"question,answer\na,b\nc,\xe9\n", "line 3 is not UTF-8"),
        ("a.txt", b"one\n\xe9\n", "line 2 is not UTF-8"),
        ("a.jsonl", ROW.encode("utf-16-le"), "looks like UTF-16 without a byte order mark"),
        ("a.jsonl", ROW.encode("utf-32"), "is UTF-32"),
        ("a.jsonl", ROW.encode("utf-16") + b"\x00\xd8", "line 2 is not utf-16-le"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b" \n\n", "is empty"),
        ("a.jsonl", b"\xef\xbb\xbf", "is empty"),
        ("a.jsonl", b"\x00" * 100, "is binary, not text"),
        ("a.txt", bytes(range(256)) * 10, "is binary, not text"),
        ("a.zip", b"PK\x03\x04...", "is a ZIP archive; archives are not unpacked"),
        ("a.parquet", b"PAR1....", "is cut off: its end is missing"),
        ("a.parquet", b"question: 2 + 2?\n", "is not Parquet, though its name says so"),
        ("a.json", b"question: 2 + 2?\n", "is not JSON, though its name says so"),
        ("a.json", b"null\n", "holds one value, no rows"),
        ("a.json", b"-4.2e1", "holds one value, no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:  # D5 R16
    with pytest.raises(StudioError) as error:
        import_bytes(tmp_path / name, content)

    assert error.value.message.startswith(str(tmp_path / name))
    assert words in error.value.message
    assert error.value.hint


def test_bytes_that_are_not_utf_8_behind_the_head_are_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # D5
    monkeypatch.setattr(container, "HEAD_BYTES", 1_000)
    rows = b"".join(b'{"question": "%d?", "answer": "4"}\n' % number for number in range(1_000))

    with pytest.raises(StudioError, match="line 1,001 is not UTF-8"):
        import_bytes(tmp_path / "rows.jsonl", rows + b'{"question": "a", "answer": "\xe9"}\n')


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"missing\.jsonl can't be opened: No such file"):
        SourceFile(tmp_path / "missing.jsonl")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_a_pipe_nobody_writes_to_does_not_hang(tmp_path: Path) -> None:  # D1
    os.mkfifo(tmp_path / "rows.jsonl")

    with pytest.raises(StudioError, match="is a pipe, not a file"):
        SourceFile(tmp_path / "rows.jsonl")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no such devices")
def test_a_device_is_refused() -> None:  # D1
    with pytest.raises(StudioError, match="is a device, not a file"):
        SourceFile(Path("/dev/zero"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="is a folder, not a file"):
        SourceFile(tmp_path)


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:  # D6
    file = tmp_path / "huge.jsonl"
    with file.open("wb") as content:
        content.truncate(20_000_000_001)  # a hole: it takes no room

    with pytest.raises(StudioError, match=r"is too large: 20\.0 GB of at most 20"):
        SourceFile(file)
