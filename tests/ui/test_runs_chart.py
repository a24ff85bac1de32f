"""Runs over each other: painted fast however rough their curves are, and whatever is chosen to be drawn."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from PySide6.QtCore import QPointF
from PySide6.QtWidgets import QVBoxLayout, QWidget

from qlora_studio.runs.metrics import MetricsTail
from qlora_studio.state.curves import Curves
from qlora_studio.ui.pages.runs_chart import AXES, METRICS, RunsChart
from tests.ui.example_runs import Example, step_event

EXAMPLE = Example(steps=0, total_steps=3000, spikes=())


@pytest.fixture
def chart(qtbot):
    page, chart = QWidget(), RunsChart()
    qtbot.addWidget(page)
    QVBoxLayout(page).addWidget(chart)
    page.resize(900, 400)
    with qtbot.waitExposed(page):
        page.show()
    yield chart  # the page lives as long


@pytest.fixture
def rough():
    """Three runs whose gradient norm is another one at each step."""
    noise = np.random.default_rng(0).uniform(0.1, 0.5, 3000).tolist()
    curves = Curves(MetricsTail(Path()))
    steps = (step_event(number, EXAMPLE) for number in range(1, 3001))
    curves.take(msgspec.structs.replace(step, grad_norm=noise[step.step - 1]) for step in steps)
    run = SimpleNamespace(folder=Path("run"), name="run")
    return [SimpleNamespace(run=run, points=curves.points(), series=series) for series in range(3)]


def test_rough_curves_are_painted_within_a_stall(chart, rough):
    chart.show_runs(rough, "grad_norm", "steps")  # wide lines took a second and more
    start = time.process_time()
    chart.grab()
    assert time.process_time() - start < 0.3


def test_a_curve_is_wide_again_where_few_of_its_steps_are_in_sight(chart, rough):
    chart.show_runs(rough, "grad_norm", "steps")
    assert {line.item.opts["pen"].widthF() for line in chart._lines_drawn} == {1.0}
    chart.box.setRange(xRange=(100, 130), padding=0)
    chart.box.sigRangeChangedManually.emit([True, True])
    assert min(line.item.opts["pen"].widthF() for line in chart._lines_drawn) > 1.0


def test_axes_come_and_go_while_the_chart_is_in_sight(chart, rough, qtbot):
    drawn = []
    for metric, _ in METRICS * 3:
        for across, _ in AXES:
            chart.show_runs(rough, metric, across)
            drawn.append(chart.grab())
    assert not any(picture.isNull() for picture in drawn)


def test_a_marker_at_the_start_is_whole(chart, rough):
    chart.show_runs(rough, "grad_norm", "steps")
    box = chart.box
    assert box.mapViewToScene(QPointF(0.0, 0.0)).x() - box.sceneBoundingRect().left() >= 5
