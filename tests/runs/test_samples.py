"""The samples of a run, in the order of their steps."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.runs.samples import read_samples
from tests.runs.example import sample_line


def test_a_sample_that_comes_again_supersedes_what_came_after_it(tmp_path: Path) -> None:  # R5
    file = tmp_path / "samples.jsonl"
    file.write_bytes(
        sample_line(100, 0)
        + sample_line(100, 1)
        + sample_line(200, 0, "old")
        + sample_line(300, 0, "old")
        + sample_line(200, 0, "new")
    )
    found = read_samples(file).samples
    assert [(sample.step, sample.index, sample.reply) for sample in found] == [
        (100, 0, "Paris."),
        (100, 1, "Paris."),
        (200, 0, "new"),
    ]


def test_broken_lines_are_skipped_and_counted(tmp_path: Path) -> None:  # R5
    file = tmp_path / "samples.jsonl"
    file.write_bytes(sample_line(1) + b"\x00\n" + b"[" * 100_000 + b"\n" + sample_line(2)[:-5])
    samples = read_samples(file)
    assert ([sample.step for sample in samples.samples], samples.skipped_lines) == ([1], 3)


def test_no_file_means_no_samples(tmp_path: Path) -> None:
    assert read_samples(tmp_path / "samples.jsonl").samples == ()
