"""A long metrics file is sketched from stretches of its lines before all of it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qlora_studio.runs import metrics_sketch
from qlora_studio.runs.metrics_sketch import sketched
from tests.runs.example import started, step_line

STEPS = 4_000


@pytest.fixture
def long_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Long for its sketch, which is of four stretches of some lines."""
    monkeypatch.setattr(metrics_sketch, "SKETCHED_FROM", 1 << 19)
    monkeypatch.setattr(metrics_sketch, "_PIECES", 4)
    monkeypatch.setattr(metrics_sketch, "_PIECE", 1 << 13)
    file = tmp_path / "metrics.jsonl"
    steps = (step_line(step, 3 - step / STEPS) for step in range(1, STEPS + 1))
    file.write_bytes(started(0, STEPS) + b"".join(steps))
    return file


def test_the_sketch_goes_from_the_first_step_to_the_last(long_file: Path) -> None:
    tail = sketched(long_file)
    assert tail is not None
    steps = tail.metrics.steps
    assert (steps[0], steps[-1], tail.metrics.total_steps) == (1, STEPS, STEPS)
    gaps = np.flatnonzero(np.diff(steps) > 1)
    assert len(gaps) == 3  # four stretches, as far from each other
    assert np.diff(steps[gaps]) == pytest.approx(STEPS / 3, rel=0.02)
    assert np.allclose(tail.metrics.loss, 3 - steps / STEPS)


def test_broken_lines_of_a_sketch_are_not_counted(long_file: Path) -> None:
    with long_file.open("ab") as file:
        file.write(b"\x00torn\n")
    tail = sketched(long_file)
    assert tail is not None
    assert (tail.metrics.skipped_lines, tail.metrics.steps[-1]) == (0, STEPS)


def test_steps_that_a_resume_repeated_are_there_once(long_file: Path) -> None:
    with long_file.open("ab") as file:
        file.write(started(10, STEPS) + b"".join(step_line(step, 1.0) for step in range(11, 61)))
    tail = sketched(long_file)
    assert tail is not None
    assert tail.metrics.steps[-1] == 60
    assert (np.diff(tail.metrics.steps) > 0).all()


def test_what_is_soon_read_or_cannot_be_is_not_sketched(tmp_path: Path) -> None:
    short = tmp_path / "metrics.jsonl"
    short.write_bytes(step_line(1))
    assert sketched(short) is None
    assert sketched(tmp_path / "nowhere.jsonl") is None
