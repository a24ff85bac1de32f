"""Metrics are append-only; what is read has one value per step and says how many lines it had to skip."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import LineAppender
from qlora_studio.runs.metric_lines import MOST_MEMORY_PARTS
from qlora_studio.runs.metrics import MetricsTail, NonFinite, read_metrics
from tests.runs.example import (
    checkpoint_line,
    evaluation_line,
    finished_line,
    sample_line,
    started,
    step_line,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_every_number_of_a_step_arrives_in_its_column(file: Path) -> None:
    file.write_bytes(started(total_steps=7) + step_line(1, 2.5) + step_line(2, 2.25))
    metrics = read_metrics(file)
    assert metrics.steps.tolist() == [1, 2]
    assert metrics.loss.tolist() == [2.5, 2.25]
    assert metrics.learning_rate.tolist() == [2e-4, 2e-4]
    assert metrics.grad_norm.tolist() == [0.5, 0.5]
    assert metrics.tokens.tolist() == [1000, 1000]
    assert metrics.learned_tokens.tolist() == [400, 400]
    assert metrics.tokens_per_second.tolist() == [500.0, 500.0]
    assert metrics.learned_tokens_per_second.tolist() == [200.0, 200.0]
    assert metrics.elapsed_s.tolist() == [2.0, 4.0]
    assert {part: column.tolist() for part, column in metrics.memory.items()} == {
        "weights": [100, 100],
        "optimizer": [50, 50],
    }
    assert metrics.memory_total.tolist() == [150, 150]
    assert (metrics.total_steps, metrics.skipped_lines) == (7, 0)


def test_a_file_that_is_not_there_yet_has_no_steps(file: Path) -> None:
    metrics = read_metrics(file)
    assert len(metrics) == 0
    assert metrics.loss.tolist() == []
    assert metrics.memory_total.tolist() == []


def test_what_happens_between_the_steps_is_kept(file: Path) -> None:
    file.write_bytes(
        started()
        + evaluation_line(0, 3.0)
        + step_line(1)
        + evaluation_line(1, 2.5)
        + checkpoint_line(1)
        + sample_line(1)
        + step_line(2)
        + evaluation_line(2, 2.0)
        + finished_line(2, "stopped")
    )
    metrics = read_metrics(file)
    assert [(line.step, line.loss) for line in metrics.evaluations] == [(0, 3.0), (1, 2.5), (2, 2.0)]
    assert [line.step for line in metrics.checkpoints] == [1]
    assert metrics.ended is not None
    assert metrics.ended.state == "stopped"
    assert metrics.skipped_lines == 0


@pytest.mark.fault(19)
def test_a_loss_that_is_no_number_is_a_gap_and_named(file: Path) -> None:  # R12
    file.write_bytes(step_line(1) + step_line(2, None, "nan") + step_line(3, None, "inf") + step_line(4))
    metrics = read_metrics(file)
    assert [math.isnan(loss) for loss in metrics.loss] == [False, True, True, False]
    assert metrics.non_finite == [NonFinite(2, "nan"), NonFinite(3, "inf")]


@pytest.mark.fault(11)
def test_a_tail_cut_at_any_byte_costs_that_line_alone(file: Path) -> None:  # R5
    whole = step_line(1) + step_line(2)
    last = step_line(3)
    for cut in range(1, len(last) - 1):
        file.write_bytes(whole + last[:cut])
        metrics = read_metrics(file)
        assert (metrics.steps.tolist(), metrics.skipped_lines) == ([1, 2], 1)
    file.write_bytes(whole + last[:-1])  # all but the line end: nothing is lost
    assert read_metrics(file).steps.tolist() == [1, 2, 3]


@pytest.mark.fault(11)
def test_after_a_torn_tail_the_run_goes_on_in_whole_lines(file: Path) -> None:  # R5
    last = step_line(3)
    for cut in range(1, len(last), 7):
        file.write_bytes(step_line(1) + step_line(2) + last[:cut])
        appender = LineAppender(file)
        appender.append(started(2))
        appender.append(step_line(3))
        appender.close()
        metrics = read_metrics(file)
        assert (metrics.steps.tolist(), metrics.skipped_lines) == ([1, 2, 3], 1)


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    "broken",
    [
        b"\x00" * 300,
        b"\xff\xfe garbage",
        b"{}",
        b"[1, 2]",
        b'"step_finished"',
        b'{"type": "step_finished"}',
        b'{"type": "step_finished", "step": -1}',
        b'{"type": "step_finished", "step": 99999999999999999999999}',
        b'{"type": "step_finished", "step": 1.5}',
        b'{"type": "step_finished", "step": 2, "loss": NaN}',
        b'{"type": "step_finished", "step": 2, "loss": "1"}',
        b'{"type": "step_finished", "step": 2, "memory": {"weights": -5}}',
        b'{"type": "step_finished", "step": 2, "note": "\xff"}',
        b'{"type": "step_finished", "step": 2, "rows": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"x" * 3_000_000,
    ],
    ids=lambda broken: repr(broken[:50]),
)
def test_a_broken_line_is_skipped_and_counted(file: Path, broken: bytes) -> None:  # R5
    file.write_bytes(step_line(1) + broken + b"\n" + step_line(2) + step_line(3))
    metrics = read_metrics(file)
    assert (metrics.steps.tolist(), metrics.skipped_lines) == ([1, 2, 3], 1)


def test_a_line_of_a_type_from_a_newer_version_is_passed_over(file: Path) -> None:  # R15
    file.write_bytes(step_line(1) + b'{"type": "moon_phase", "step": "full"}\n' + step_line(2))
    metrics = read_metrics(file)
    assert (metrics.steps.tolist(), metrics.skipped_lines) == ([1, 2], 0)


def test_steps_beyond_a_resume_are_superseded(file: Path) -> None:  # R5
    file.write_bytes(
        started()
        + b"".join(step_line(step, 2.0) for step in range(1, 8))
        + evaluation_line(4, 2.0)
        + evaluation_line(6, 2.0)
        + checkpoint_line(4)
        + step_line(8, None, "nan")
        + started(4)
        + step_line(5, 1.0)
    )
    metrics = read_metrics(file)
    assert metrics.steps.tolist() == [1, 2, 3, 4, 5]
    assert metrics.loss.tolist() == [2.0, 2.0, 2.0, 2.0, 1.0]
    assert [line.step for line in metrics.evaluations] == [4]
    assert [line.step for line in metrics.checkpoints] == [4]
    assert metrics.non_finite == []


def test_a_resume_that_got_no_further_yet_supersedes_too(file: Path) -> None:  # R5
    file.write_bytes(step_line(1) + step_line(2) + step_line(3) + finished_line(3, "paused") + started(1))
    metrics = read_metrics(file)
    assert metrics.steps.tolist() == [1]
    assert metrics.ended is None


def test_a_resume_whose_first_line_was_torn_is_seen_from_its_steps(file: Path) -> None:  # R5
    file.write_bytes(
        b"".join(step_line(step, 2.0) for step in (1, 2, 3, 4))
        + evaluation_line(3, 2.0)
        + started(2)[:9]
        + b"\n"
        + step_line(3, 1.0)
        + evaluation_line(3, 1.0)
    )
    metrics = read_metrics(file)
    assert metrics.loss.tolist() == [2.0, 2.0, 1.0]
    assert [(line.step, line.loss) for line in metrics.evaluations] == [(3, 1.0)]


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_steps_reads_as_if_line_by_line(file: Path, seed: int) -> None:  # R5
    lines = np.random.default_rng(seed).integers(1, 12, size=40).tolist()
    file.write_bytes(b"".join(step_line(step, float(place)) for place, step in enumerate(lines)))
    expected: dict[int, float] = {}
    for place, step in enumerate(lines):
        expected = {older: value for older, value in expected.items() if older < step} | {step: float(place)}
    metrics = read_metrics(file)
    assert dict(zip(metrics.steps.tolist(), metrics.loss.tolist(), strict=True)) == expected


def test_the_tail_gives_the_same_whatever_pieces_the_file_came_in(file: Path) -> None:  # R5
    text = (
        started()
        + b"".join(step_line(step) for step in range(1, 9))
        + b"\x00broken\n"
        + evaluation_line(8, 2.0)
        + started(5)
        + b"".join(step_line(step, 1.0, extra=7) for step in range(6, 10))
    )
    file.write_bytes(text)
    whole = read_metrics(file)
    for size in (1, 2, 3, 100, 1000):
        file.write_bytes(b"")
        tail = MetricsTail(file)
        for start in range(0, len(text), size):
            with file.open("ab") as growing:
                growing.write(text[start : start + size])
            tail.read()
        assert tail.metrics.steps.tolist() == whole.steps.tolist()
        assert tail.metrics.memory_total.tolist() == whole.memory_total.tolist()
        assert tail.metrics.skipped_lines == whole.skipped_lines == 1


def test_the_tail_waits_for_the_end_of_a_line(file: Path) -> None:
    file.write_bytes(step_line(1) + step_line(2)[:20])
    tail = MetricsTail(file)
    assert tail.read()
    assert not tail.read()
    assert (tail.metrics.steps.tolist(), tail.metrics.skipped_lines) == ([1], 0)


def test_the_tail_starts_again_where_the_file_became_another(file: Path) -> None:
    file.write_bytes(step_line(1) + step_line(2))
    tail = MetricsTail(file)
    tail.read()
    file.write_bytes(step_line(1))
    tail.read()
    assert tail.metrics.steps.tolist() == [1]


def test_views_taken_before_stay_while_steps_are_added(file: Path) -> None:
    file.write_bytes(b"".join(step_line(step) for step in range(1, 1001)))
    tail = MetricsTail(file)
    tail.read()
    before = tail.metrics.loss
    with file.open("ab") as growing:
        growing.writelines(step_line(step, 9.0) for step in range(1001, 3001))
    tail.read()
    assert len(before) == 1000
    assert before.tolist() == [1.5] * 1000
    assert len(tail.metrics) == 3000


def test_a_part_of_memory_met_late_is_zero_before(file: Path) -> None:
    file.write_bytes(step_line(1, weights=5) + step_line(2, weights=5, evaluation=3) + step_line(3, logits=1))
    metrics = read_metrics(file)
    assert {part: column.tolist() for part, column in metrics.memory.items()} == {
        "weights": [5, 5, 0],
        "evaluation": [0, 3, 0],
        "logits": [0, 0, 1],
    }


def test_names_of_parts_from_a_file_can_be_anything_but_not_endless(file: Path) -> None:
    file.write_bytes(
        b"".join(step_line(step, **{f"part {step} \u202e": 1}) for step in range(1, MOST_MEMORY_PARTS + 10))
    )
    metrics = read_metrics(file)
    assert len(metrics.memory) == MOST_MEMORY_PARTS
    assert metrics.skipped_lines == 9


@pytest.mark.fault(11)
@pytest.mark.parametrize("seed", range(10))
def test_bytes_flipped_anywhere_cost_their_lines_alone(file: Path, seed: int) -> None:  # R5
    random = np.random.default_rng(seed)
    text = bytearray(b"".join(step_line(step) for step in range(1, 101)))
    for place in random.integers(0, len(text), size=20).tolist():
        text[place] = int(random.integers(0, 256))
    file.write_bytes(text)
    metrics = read_metrics(file)
    assert 78 <= len(metrics) <= 100  # at most two lines a flip: one may run into the next
    assert metrics.skipped_lines <= 40


def test_a_link_or_a_pipe_is_not_read(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(step_line(1))
    file.symlink_to(tmp_path / "other")
    with pytest.raises(StudioError, match="can't be read"):
        read_metrics(file)


def test_a_hundred_thousand_steps_are_read_in_well_under_a_second(file: Path) -> None:
    # A million lines of 480 bytes took 1.4 s on a machine of 2 cores.
    one = step_line(123_456, 1.2345678, weights=1, activations=2, logits=3)
    with file.open("wb") as writing:
        for step in range(100_000, 200_000):
            writing.write(one.replace(b"123456", b"%d" % step))
    start = time.process_time()  # other processes don't count
    metrics = read_metrics(file)
    assert time.process_time() - start < 0.6
    assert len(metrics) == 100_000
