"""Elements of a JSON list, found without reading it whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.data import json_records, source_file
from qlora_studio.data.json_records import json_elements
from qlora_studio.data.source_file import SourceFile
from qlora_studio.data.text_file import TextFile
from qlora_studio.errors import StudioError

VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\[]{},\n\ré'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"{,'), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(values=st.lists(VALUES), indent=st.sampled_from([None, 0, 2]), chunk=st.integers(1, 9))
def test_every_element_is_found_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[object], indent: int | None, chunk: int
) -> None:
    monkeypatch.setattr(source_file, "CHUNK_BYTES", chunk)
    content = json.dumps(values, indent=indent).encode().replace(b"\n", b"\r\n")

    found = _elements(tmp_path, content)

    assert [json.loads(text) for text, _, _ in found] == values
    for text, line, offset in found:
        assert content[offset:].startswith(text)
        assert line == 1 + content[:offset].count(b"\r\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(values=st.lists(st.dictionaries(st.text(), VALUES), min_size=1, max_size=4), chunk=st.integers(1, 9))
def test_objects_that_just_follow_each_other_are_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[object], chunk: int
) -> None:
    monkeypatch.setattr(source_file, "CHUNK_BYTES", chunk)
    content = "\n".join(json.dumps(value, indent=1) for value in values).encode()

    assert [json.loads(text) for text, _, _ in _elements(tmp_path, content)] == values


def test_a_comma_too_many_is_an_element_with_nothing_in_it(tmp_path: Path) -> None:  # D7
    assert [text for text, _, _ in _elements(tmp_path, b"[1, , 2, ]")] == [b"1", b"", b"2", b""]


def test_an_empty_list_has_no_elements(tmp_path: Path) -> None:
    assert _elements(tmp_path, b"[ \n ]\n") == []


@pytest.mark.parametrize("content", [b'[{"a": 1}, {"a"', b'[{"a": 1}', b'[{"a": "x]'])
def test_a_list_that_is_cut_off_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(StudioError, match=r"elements\.json ends in the middle.*line 1\. It seems cut off"):
        _elements(tmp_path, content)


def test_what_follows_the_list_is_refused(tmp_path: Path) -> None:  # D3
    with pytest.raises(StudioError, match=r"something follows the end of the list, near line 2"):
        _elements(tmp_path, b"[1,\n2]   [3]")


def test_a_second_list_in_the_same_object_is_not_lost_quietly(tmp_path: Path) -> None:  # D3
    with pytest.raises(StudioError, match="'test' is the second"):
        _elements(tmp_path, b'{"train": [1], "test": [2]}', array_at=10)
    with pytest.raises(StudioError, match="'more' is the second"):
        _elements(tmp_path, b'{"train": [1], "x": {}, "more": [{}]}', array_at=10)


def test_what_is_no_object_behind_the_list_is_refused(tmp_path: Path) -> None:  # D7
    with pytest.raises(StudioError, match="something follows"):
        _elements(tmp_path, b'{"train": [1], "test": oops}', array_at=10)


def test_scalars_behind_the_list_in_the_same_object_are_no_rows(tmp_path: Path) -> None:
    assert len(_elements(tmp_path, b'{"data": [1, 2], "version": "1.0", "size": 2}\n', array_at=9)) == 2


def test_a_file_of_brackets_ends_with_a_message(tmp_path: Path) -> None:  # D6
    with pytest.raises(StudioError, match=r"begins in line 2 is nested deeper than 1,000"):
        _elements(tmp_path, b"[1,\n" + b"[" * 1_000_000)


def test_a_quote_that_is_never_closed_ends_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # D6
    monkeypatch.setattr(source_file, "CHUNK_BYTES", 100)
    monkeypatch.setattr(json_records, "_LONGEST_ELEMENT", 1_000)

    with pytest.raises(StudioError, match=r"row that begins in line 2 .* one of its quotes is never closed"):
        _elements(tmp_path, b'[1,\n"' + b"x" * 3_000)


def _elements(folder: Path, content: bytes, array_at: int = 0) -> list[tuple[bytes, int, int]]:
    file = folder / "elements.json"
    file.write_bytes(content)
    with SourceFile(file) as source:
        text = TextFile(file, str(file), source, 0, "utf-8")
        return [(found.text, found.line, found.offset) for found in json_elements(text, array_at)]
