"""A home with the sample model unpacked in it, as after its first use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_studio.config.places import sample_model_folder
from tests.engine.conftest import smollm2

__all__ = ["sample_home", "smollm2", "sums"]


@pytest.fixture
def sample_home(home: Path, smollm2: Path) -> Path:
    """QLORA_STUDIO_HOME of this test."""
    folder = sample_model_folder()
    folder.parent.mkdir(parents=True)
    folder.symlink_to(smollm2, target_is_directory=True)
    return home


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """48 short questions with their answers: an update with some of them takes half a second."""
    file = tmp_path / "sums.jsonl"
    pairs = [(a, b) for a in range(2, 10) for b in range(3, 9)]
    rows = [{"question": f"What is {a} times {b}?", "answer": f"{a} x {b} = {a * b}"} for a, b in pairs]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return file
