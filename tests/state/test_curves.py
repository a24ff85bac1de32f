"""A run's points: one value a step, the same whether they were read, told or both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qlora_studio.protocol.events import RunStarted
from qlora_studio.protocol.lines import EVENTS
from qlora_studio.runs.metrics import MetricsTail
from qlora_studio.state.curves import Curves
from qlora_studio.state.run_figures import run_figures
from tests.ui.example_runs import Example, run_events, step_event

EXAMPLE = Example(steps=300, total_steps=400, evaluate_every=100, nan_at=(150,), spikes=(220,))


@pytest.fixture
def told(tmp_path):
    return list(run_events(tmp_path, EXAMPLE))


@pytest.fixture
def file(tmp_path, told):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(map(EVENTS.encode, told)))
    return path


def test_what_was_told_is_what_is_read(file, told, tmp_path):
    read, heard = Curves(MetricsTail(file)), Curves(MetricsTail(tmp_path / "none"))
    read.read(to_the_end=True)
    heard.take(told)
    for name in ("steps", "loss", "smoothed", "tokens", "memory_total", "evaluation_losses", "checkpoints"):
        assert np.array_equal(getattr(read.points(), name), getattr(heard.points(), name), equal_nan=True)


def test_events_that_the_file_had_already_change_nothing(file, told):
    curves = Curves(MetricsTail(file))
    curves.read(to_the_end=False)
    before = curves.points()
    curves.take(told[50:])
    after = curves.points()
    assert np.array_equal(before.loss, after.loss, equal_nan=True)
    assert np.array_equal(before.evaluation_steps, after.evaluation_steps)


def test_points_that_are_only_added_rewind_nothing(file):
    curves = Curves(MetricsTail(file))
    curves.read(to_the_end=False)
    before = curves.points()
    curves.take([step_event(301, EXAMPLE)])
    after = curves.points()
    assert after.rewinds == before.rewinds
    assert (len(before), len(after), after.last_step) == (300, 301, 301)


def test_a_resume_supersedes_what_was_measured_beyond_it(file):  # R5
    curves = Curves(MetricsTail(file))
    curves.read(to_the_end=False)
    before = curves.points()
    curves.take(
        [RunStarted(run="r", step=200, total_steps=400, resumed=True, time=0.0), step_event(201, EXAMPLE)]
    )
    after = curves.points()
    assert after.steps.tolist() == list(range(1, 202))
    assert after.rewinds > before.rewinds


def test_right_letters_are_read_with_the_evaluation_they_belong_to(tmp_path):
    curves = Curves(MetricsTail(tmp_path / "none"))
    curves.take(run_events(tmp_path, Example(steps=300, total_steps=400, evaluate_every=100, letters=40)))
    points = curves.points()
    assert {(line.right, line.questions) for line in points.evaluations} == {(30, 40)}
    assert run_figures(points, None).right_share == 0.75


def test_a_loss_that_is_no_number_is_named_by_its_step(file):  # R12
    curves = Curves(MetricsTail(file))
    curves.read(to_the_end=True)
    points = curves.points()
    assert [(gap.step, gap.kind) for gap in points.non_finite] == [(150, "nan")]
    assert np.isnan(points.loss[149]) and np.isnan(points.smoothed[149])


def test_a_step_that_took_much_more_memory_is_found(file):
    curves = Curves(MetricsTail(file))
    curves.read(to_the_end=True)
    points = curves.points()
    assert [int(points.steps[place]) for place in points.spikes] == [220]


def test_it_is_found_where_torch_holds_on_to_what_it_reserved(tmp_path):
    """As it does on a card: the sum of all parts is the same in each step."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(map(EVENTS.encode, run_events(tmp_path, replace(EXAMPLE, reserved_gib=40.0)))))
    curves = Curves(MetricsTail(path))
    curves.read(to_the_end=True)
    points = curves.points()
    assert len(set(points.memory_total // 2**20)) == 1
    assert [int(points.steps[place]) for place in points.spikes] == [220]
    assert points.memory_needed[219] - np.median(points.memory_needed) > 10 * 2**30


def test_smoothing_by_another_weight_changes_the_smoothed_curve_alone(file):
    curves = Curves(MetricsTail(file))
    curves.read(to_the_end=True)
    before = curves.points()
    curves.smooth(0.0)
    after = curves.points()
    assert np.array_equal(after.smoothed, after.loss, equal_nan=True)
    assert np.array_equal(before.loss, after.loss, equal_nan=True)


@pytest.mark.parametrize(("step", "place"), [(-5, 0), (1, 0), (1.4, 0), (1.6, 1), (1e9, 299)])
def test_the_crosshair_stands_at_the_nearest_step(file, step, place):
    curves = Curves(MetricsTail(file))
    curves.read(to_the_end=True)
    assert curves.points().at(step) == place
