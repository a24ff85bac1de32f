"""Runs compared in the window: one after another, stopped and gone on with, and what comes of them."""

from __future__ import annotations

import msgspec
import pytest

from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.run_state import read_state, write_state
from qlora_studio.runs.sweep import Found, Point, read_sweep, unfinished
from tests.state.reports import import_report
from tests.ui.example_runs import Example, make_run

SHAPE = known_shape("smollm2-135m")
CONFIG = with_changes(RunConfig(), {"model.path": "/models/tiny", "data.path": "/data/chats.jsonl"})


@pytest.fixture
def sweep(app, qtbot):
    app.sweep.start(CONFIG, SHAPE, "layers", seeds=1)
    return app.sweep


def prepared(app, silent, qtbot, name: str):
    """The reader has made the folder of the run that is asked for, and the engine trains it."""
    qtbot.waitUntil(lambda: bool(silent.asked(reading.PrepareRun)))
    request = silent.asked(reading.PrepareRun)[0]
    run = make_run(
        app.preferences.runs_folder, Example(name=name, steps=20, evaluate_every=10, end="finished")
    )
    fields = {"steps": 20, "train_rows": 9, "validation_rows": 1, "learned_tokens": 99}
    with qtbot.waitSignal(app.launcher.prepared):
        silent.answer(
            reading.PrepareRun,
            reading.RunPrepared,
            run=str(run),
            report=import_report(),
            promise_bytes={},
            notes=(),
            **fields,
        )
    return request, run


def finish(silent, run, state="finished") -> None:
    silent.hear(events.RunFinished(run=str(run), step=20, adapter=None, state=state))


def test_runs_are_made_one_after_another_and_the_table_fills(app, sweep, silent, qtbot):
    runs = []
    for number, target in enumerate(("all-linear", "attention", "feed-forward")):
        request, run = prepared(app, silent, qtbot, f"run {number}")
        assert request.config.training.seed == 0
        targets = request.config.lora.target_modules
        assert targets == "all-linear" if number == 0 else isinstance(targets, tuple)
        assert request.name.startswith("Adapted layers: tiny")
        assert target.split("-")[0] in request.name or target == "all-linear"
        assert f"{number} of 3 runs finished; now " in sweep.words
        assert silent.last_said(commands.Train).run == str(run)
        finish(silent, run)
        runs.append(str(run))
    qtbot.waitUntil(lambda: not sweep.running)
    assert sweep.words == "3 of 3 runs finished"
    assert sweep.problem is None
    assert [point.run for point in read_sweep(sweep.opened.folder).points] == runs
    assert all(row.loss is not None for row in sweep.opened.rows)
    qtbot.waitUntil((sweep.opened.folder / "losses.svg").is_file)


def test_stopped_it_saves_the_run_in_hand_and_goes_on_with_it(app, sweep, silent, qtbot):
    _, first = prepared(app, silent, qtbot, "first")
    finish(silent, first)
    _, second = prepared(app, silent, qtbot, "second")
    state = read_state(second).state
    write_state(second, msgspec.structs.replace(state, state="paused"))
    sweep.stop()
    assert silent.said(commands.PauseTraining)
    finish(silent, second, "paused")
    silent.engines[-1].end()
    assert not sweep.running
    qtbot.waitUntil(lambda: not app.engine.held)
    sweep.go_on()
    qtbot.waitUntil(lambda: bool(silent.asked(reading.CheckResume)))
    assert silent.asked(reading.CheckResume)[0].run == str(second)


def test_a_run_that_fails_stops_it_with_the_reason(app, sweep, silent, qtbot):
    _, run = prepared(app, silent, qtbot, "first")
    problem = Problem("The GPU ran out of memory.")
    silent.hear(events.RunFailed(error=problem, run=str(run), step=3, cause="out_of_memory"))
    assert (sweep.running, sweep.problem) == (False, problem)


@pytest.mark.parametrize(
    ("states", "order"),
    [
        (("finished", "failed", "waiting", "paused"), [2, 3, 1]),
        (("failed", "finished"), [0]),
        (("finished", "finished"), []),
    ],
)
def test_runs_that_failed_are_made_after_all_others(states, order):
    point = Point(label="r = 8", seed=0, changes={})
    results = [Found(point, state, {}) for state in states]
    assert unfinished(results) == order


def test_data_that_can_not_be_read_stops_it(app, sweep, silent, qtbot):
    qtbot.waitUntil(lambda: bool(silent.asked(reading.PrepareRun)))
    silent.refuse(reading.PrepareRun, "/data/chats.jsonl is empty.")
    assert not sweep.running
    assert sweep.problem.message == "/data/chats.jsonl is empty."


def test_while_something_holds_the_device_none_is_begun(app, home, silent):
    app.engine.train(home / "other", "other-run")
    app.sweep.start(CONFIG, SHAPE, "ranks", seeds=1)
    assert not app.sweep.running
    assert app.sweep.why_not == "other-run is training and holds the device."


def test_the_newest_is_there_again_in_another_window(app, sweep, silent, qtbot):
    qtbot.waitUntil(lambda: sweep.opened is not None)
    sweep.stop()
    sweep.opened = None
    sweep.look()
    qtbot.waitUntil(lambda: sweep.opened is not None)
    assert sweep.opened.sweep.title == "Adapted layers: tiny"
