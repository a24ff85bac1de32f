"""Good files spoiled by chance, always the same: a short hunt of each kind. See `tests.fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.hunt import hunt

SEED = 8


def crashes(kind: str, cases: int, folder: Path) -> list[tuple[Path, str]]:
    """What broke a promise, and how."""
    found = hunt(kind, SEED, folder / "kept", folder / "work", cases=cases)
    assert found.cases == cases
    assert found.refused
    return found.crashes


@pytest.mark.fault(31)
@pytest.mark.slow_fault
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_spoiled_data_is_counted_or_refused(tmp_path: Path, kind: str) -> None:  # D1 D2 D3 R16
    assert crashes(kind, 200, tmp_path) == []


@pytest.mark.fault(24)
@pytest.mark.slow_fault
@pytest.mark.parametrize("kind", ["safetensors", "config"])
def test_a_spoiled_model_is_taken_or_refused(tmp_path: Path, kind: str) -> None:  # S2 S3 S4
    assert crashes(kind, 40, tmp_path) == []


@pytest.mark.fault(27)
@pytest.mark.slow_fault
def test_a_spoiled_tokenizer_is_taken_or_refused(tmp_path: Path) -> None:  # S6 S7
    assert crashes("tokenizer", 20, tmp_path) == []


@pytest.mark.fault(28)
@pytest.mark.slow_fault
def test_a_spoiled_adapter_is_taken_or_refused(tmp_path: Path) -> None:  # S5
    assert crashes("adapter", 200, tmp_path) == []


@pytest.mark.fault(12)
@pytest.mark.slow_fault
def test_a_spoiled_run_is_told_of_or_refused(tmp_path: Path) -> None:  # R2 R5 R6
    assert crashes("run", 500, tmp_path) == []


@pytest.mark.fault(29)
def test_a_spoiled_line_is_a_message_or_none(tmp_path: Path) -> None:  # S13
    found = hunt("protocol", SEED, tmp_path / "kept", tmp_path / "work", cases=2000)
    assert (found.cases, found.crashes) == (2000, [])
