"""Lines end at LF, CRLF or CR, wherever the chunks are cut."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.data import lines
from qlora_studio.data.lines import count_line_ends, numbered_lines
from qlora_studio.data.source_file import SourceFile
from qlora_studio.data.text_file import TextFile


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    parts=st.lists(
        st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\x0b", b"\x0c", b"\xe2\x80\xa8", b"\xc2\x85"])
    ),
    chunk=st.integers(1, 7),
)
def test_lines_end_at_three_ends_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[bytes], chunk: int
) -> None:  # D5
    monkeypatch.setattr(lines, "CHUNK_BYTES", chunk)
    content = b"".join(parts)
    expected = re.findall(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z", content)

    found = _lines(tmp_path, content)

    assert [line for line, _, _ in found] == expected
    assert [number for _, number, _ in found] == list(range(1, len(expected) + 1))
    assert all(content[offset:].startswith(line) for line, _, offset in found)
    assert count_line_ends(content) == len(re.findall(rb"\r\n|\n|\r", content))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_line_that_is_too_long_is_cut_and_those_behind_it_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:  # D6
    monkeypatch.setattr(lines, "CHUNK_BYTES", 5)
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 12)
    content = b"a" + end + b"b" * 40 + end + b"c" + end

    found = _lines(tmp_path, content)

    assert [len(line) > 12 for line, _, _ in found] == [False, True, False]
    assert found[2] == (b"c" + end, 3, content.index(b"c"))


def _lines(folder: Path, content: bytes) -> list[tuple[bytes, int, int]]:
    file = folder / "lines.txt"
    file.write_bytes(content)
    found = []
    with SourceFile(file) as source:
        for line in numbered_lines(TextFile(file, str(file), source, 0, "utf-8")):
            found.append((line.text, line.number, line.offset))
    return found
