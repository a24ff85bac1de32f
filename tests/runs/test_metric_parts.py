"""A long metrics file read by several processes gives what one gives, wherever it is cut (R5)."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qlora_studio.runs import metric_parts, metrics
from qlora_studio.runs.metric_lines import MOST_MEMORY_PARTS
from qlora_studio.runs.metric_parts import write_part
from qlora_studio.runs.metrics import Metrics, MetricsTail, read_metrics
from tests.runs.example import (
    checkpoint_line,
    evaluation_line,
    failed_line,
    finished_line,
    sample_line,
    started,
    step_line,
)

TORN = (b"\x00broken", b"\xff\xfe", b'{"type": "moon_phase", "step": "full"}', step_line(3)[:40], b"")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """From now on files are read in parts that begin at `cuts`; children are stood in for, their answers
    end after `whole` bytes.
    """

    def choose(*cuts: int, whole: int | None = None) -> None:
        def cut(descriptor: int, start: int, end: int, count: int) -> list[int]:
            return [start, *(cut for cut in cuts if start < cut < end), end]

        def answer(path: Path, descriptor: int, start: int, end: int) -> Answered:
            return Answered(descriptor, start, end, whole)

        monkeypatch.setattr(metrics, "PARALLEL_FROM", 1)
        monkeypatch.setattr(metric_parts, "_cuts", cut)
        monkeypatch.setattr(metric_parts, "_started", answer)

    return choose


class Answered:
    """A child that has answered."""

    def __init__(self, descriptor: int, start: int, end: int, whole: int | None) -> None:
        tail = MetricsTail(Path(), start)
        tail.read_up_to(descriptor, end)
        answer = io.BytesIO()
        write_part(answer, tail.facts(), tail.metrics.columns())
        self.stdout = io.BytesIO(answer.getvalue()[:whole])

    def kill(self) -> None:
        """It has ended."""

    def wait(self) -> int:
        return 0


@pytest.mark.parametrize("seed", range(12))
def test_a_file_cut_at_any_line_reads_as_one(file: Path, in_parts: Callable[..., None], seed: int) -> None:
    lines = random_lines(np.random.default_rng(seed))
    file.write_bytes(b"".join(lines))
    whole = all_of(read_metrics(file))
    ends = np.cumsum([len(line) for line in lines]).tolist()
    for cut in ends:
        in_parts(cut)
        assert all_of(read_metrics(file)) == whole
    in_parts(*ends)  # a part a line
    assert all_of(read_metrics(file)) == whole


def test_a_line_too_long_is_counted_once_and_the_file_goes_on_behind_it(
    file: Path, in_parts: Callable[..., None]
) -> None:
    before, long = step_line(1), b"x" * 3_000_000 + b"\n"
    file.write_bytes(before + long + step_line(2) + b"x" * 2_500_000)
    for cut in (len(before), len(before + long)):
        in_parts(cut)
        tail = MetricsTail(file)
        tail.read()
        with file.open("ab") as growing:
            growing.write(b"x\n" + step_line(3))
        tail.read()
        assert (tail.metrics.steps.tolist(), tail.metrics.skipped_lines) == ([1, 2, 3], 2)
        file.write_bytes(file.read_bytes()[: -len(b"x\n" + step_line(3))])


def test_the_tail_follows_a_file_whose_start_was_read_in_parts(
    file: Path, in_parts: Callable[..., None]
) -> None:
    first = step_line(1) + step_line(2, evaluation=3)
    file.write_bytes(first + step_line(3) + step_line(4)[:30])
    in_parts(len(first))
    tail = MetricsTail(file)
    tail.read()
    assert tail.metrics.steps.tolist() == [1, 2, 3]
    with file.open("ab") as growing:
        growing.write(step_line(4)[30:] + started(2) + step_line(3, 9.0))
    assert tail.read()
    assert tail.metrics.loss.tolist() == [1.5, 1.5, 9.0]
    assert tail.metrics.memory["evaluation"].tolist() == [0, 3, 0]


def test_an_answer_that_breaks_off_anywhere_costs_nothing(file: Path, in_parts: Callable[..., None]) -> None:
    first = b"".join(step_line(step) for step in range(1, 9)) + evaluation_line(8, 2.0)
    file.write_bytes(first + started(5) + step_line(6, 1.0, late=1) + finished_line(6, "paused"))
    whole = all_of(read_metrics(file))
    for length in range(0, 1500, 11):
        in_parts(len(first), whole=length)
        assert all_of(read_metrics(file)) == whole


def test_more_parts_of_memory_than_are_kept_are_dropped_in_the_order_of_the_file(
    file: Path, in_parts: Callable[..., None]
) -> None:
    lines = [step_line(step, **{f"part {step}": 1}) for step in range(1, MOST_MEMORY_PARTS + 10)]
    file.write_bytes(b"".join(lines))
    whole = all_of(read_metrics(file))
    in_parts(sum(map(len, lines[:20])))
    assert all_of(read_metrics(file)) == whole


def test_real_children_read_what_one_process_reads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(b"".join(random_lines(np.random.default_rng(1), count=3000)))
    whole = all_of(read_metrics(file))
    joined = counted_joins(monkeypatch)
    monkeypatch.setattr(metrics, "PARALLEL_FROM", 1)
    monkeypatch.setattr(metric_parts, "_cores", lambda: 3)
    assert all_of(read_metrics(file)) == whole
    assert joined == [True, True, True]


def test_where_no_child_can_be_started_the_file_is_read_all_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(b"".join(step_line(step) for step in range(1, 100)))
    monkeypatch.setattr(metrics, "PARALLEL_FROM", 1)
    monkeypatch.setattr(metric_parts.sys, "executable", str(file.with_name("none")))
    assert read_metrics(file).steps.tolist() == list(range(1, 100))


def test_parts_begin_where_lines_do(file: Path) -> None:
    lines = random_lines(np.random.default_rng(2), count=500)
    text = b"".join(lines)
    file.write_bytes(text)
    with file.open("rb") as reading:
        for count in range(1, 30):
            cuts = metric_parts._cuts(reading.fileno(), 0, len(text), count)
            assert (cuts[0], cuts[-1]) == (0, len(text))
            assert all(text[cut - 1 : cut] == b"\n" for cut in cuts[1:-1])
            assert all(first < second for first, second in pairwise(cuts))


def test_a_file_without_a_line_end_is_one_part(file: Path) -> None:
    file.write_bytes(b"x" * 200_000)
    with file.open("rb") as reading:
        assert metric_parts._cuts(reading.fileno(), 0, 200_000, 4) == [0, 200_000]


def counted_joins(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Fills up as parts are joined."""
    joined: list[bool] = []
    join = Metrics.join

    def watched(self: Metrics, *what: Any) -> bool:
        joined.append(join(self, *what))
        return joined[-1]

    monkeypatch.setattr(Metrics, "join", watched)
    return joined


def random_lines(random: np.random.Generator, count: int = 25) -> list[bytes]:
    """A run with resumes, of which some are torn, and all that stands between steps."""
    lines = [started()]
    step = 0
    for place in range(count):
        step += 1
        memory = {"weights": place, "optimizer": 7} | ({f"part {place % 5}": place} if place % 3 else {})
        lines.append(step_line(step, float(place), **memory))
        kind = int(random.integers(0, 12))
        back = int(random.integers(0, step + 1))
        extra = {
            0: [evaluation_line(step, float(place))],
            1: [evaluation_line(step, 1.0), checkpoint_line(step)],
            2: [started(back, total_steps=place)],  # goes on from there
            3: [finished_line(step, "paused"), started(back, total_steps=0)],
            4: [TORN[place % len(TORN)] + b"\n"],
            5: [step_line(step + 1, None, "inf"), sample_line(step)],
            6: [evaluation_line(back, float(place)), checkpoint_line(back)],  # its start line was lost
            7: [failed_line(step, "error")],
        }.get(kind, [])
        lines += extra
        step = {2: back, 3: back, 5: step + 1, 6: back}.get(kind, step)
    return lines


def all_of(read: Metrics) -> tuple[Any, ...]:
    """Everything, comparable."""
    numbers = [column.tobytes() for column in read.columns()]  # NaN is equal to itself, too
    between = (read.evaluations, read.checkpoints, read.non_finite)
    return (numbers, list(read.memory), *between, read.total_steps, read.ended, read.skipped_lines)
