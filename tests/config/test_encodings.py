"""Encodings under all their names."""

from __future__ import annotations

import pytest

from qlora_studio.config.encodings import ENCODINGS, encoding_named


@pytest.mark.parametrize(
    ("name", "ours"),
    [("cp1252", "windows-1252"), ("UTF8", "utf-8"), ("iso-8859-1", "latin-1"), ("sjis", "shift_jis")],
)
def test_an_encoding_is_known_by_its_other_names(name: str, ours: str) -> None:
    assert encoding_named(name) == ours


@pytest.mark.parametrize("name", [*ENCODINGS, "klingon", "rot13", "a\0b", ""])
def test_our_own_names_and_those_of_nothing_stay(name: str) -> None:
    assert encoding_named(name) == name
