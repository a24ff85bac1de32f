"""What names promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_studio.data.file_names import (
    COMPRESSED_SUFFIXES,
    DATA_SUFFIXES,
    data_suffix,
    may_be_data,
    name_filter,
)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("rows.jsonl", ".jsonl"),
        ("rows.JSONL", ".jsonl"),
        ("rows.v2.csv.gz", ".csv"),
        ("rows.Json.Xz", ".json"),
        ("rows.gz", ""),
        ("rows.jsonl.bak", ""),
        ("rows.tar.gz", ""),
        ("rows", ""),
        (".jsonl", ""),
        ("rows.gz.jsonl", ".jsonl"),
    ],
)
def test_the_ending_below_a_compression_counts(name: str, suffix: str) -> None:
    assert data_suffix(Path(name)) == suffix


def test_whatever_is_read_can_be_dropped_and_picked() -> None:
    names = [f"rows{suffix}" for suffix in (*DATA_SUFFIXES, *COMPRESSED_SUFFIXES)]

    assert all(may_be_data(Path(name)) for name in names)
    assert all(f"*{Path(name).suffix}" in name_filter() for name in names)
    assert not may_be_data(Path("weights.safetensors"))
