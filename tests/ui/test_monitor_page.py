"""The Monitor: a run as it trains, as it ended, and as it can go on."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QFontMetrics, QImage
from PySide6.QtWidgets import QLabel, QPushButton, QSlider, QTableView, QTextEdit, QWidget

from qlora_studio.data.report import ImportReport
from qlora_studio.memory.devices import CardReading
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.lines import EVENTS
from qlora_studio.runs.lock import RunLock
from qlora_studio.runs.metrics import METRICS_FILE
from qlora_studio.runs.run_state import RunState, write_state
from qlora_studio.ui.pages.monitor import MonitorPage
from qlora_studio.ui.theme import theme
from tests.ui.example_runs import Example, make_run, step_event

TRAINING = Example(steps=0, total_steps=400, spikes=())
REPORT = ImportReport(
    path="chats.jsonl",
    rows_in=20,
    imported=20,
    skipped=0,
    merged=0,
    conversations=20,
    format="messages",
    encoding="utf-8",
    sha256="",
    problems=(),
    findings=(),
)
PREPARED = {
    "steps": 400,
    "train_rows": 19,
    "validation_rows": 1,
    "learned_tokens": 900,
    "report": REPORT,
    "promise_bytes": {},
}


@pytest.fixture
def make(home):
    return lambda **fields: make_run(home / "runs", Example(**{"steps": 300, "total_steps": 400, **fields}))


@pytest.fixture
def open_run(app, qtbot):
    def open_page(what: Path | None) -> MonitorPage:
        page = MonitorPage(app).whole()
        qtbot.addWidget(page)
        page.resize(1440, 860)
        page.show()
        page.opened(what)
        qtbot.waitUntil(lambda: not app.monitor.loading and not app.monitor.verifying)
        return page

    return open_page


@pytest.fixture
def training(app, silent, home, open_run):
    """A page on a run that trains here, before its first step."""
    folder = make_run(home / "runs", TRAINING)
    app.engine.train(folder)
    page = open_run(folder)
    _started(silent, folder)
    return page


# While it trains ------------------------------------------------------------------------------------


def test_before_the_first_step_it_says_what_the_engine_does(training, silent):
    silent.hear(events.LoadingProgress(done=143, total=291, words="Loading Llama-3.1-8B"))
    assert _text(training, "monitor_waiting") == "Loading Llama-3.1-8B: 143 of 291"


def test_steps_become_points_of_every_chart(training, silent, qtbot):
    _steps(silent, 1, 40)
    qtbot.waitUntil(lambda: len(training.stretch.points) == 40)
    assert not training.findChild(QWidget, "monitor_waiting").isVisible()
    assert _drawn(_chart(training, "monitor_loss")) == [40, 40]
    for name in ("monitor_lr", "monitor_grad_norm", "monitor_speed"):
        assert _drawn(_chart(training, name)) == [40]


def test_the_figures_say_where_it_is_and_when_it_is_done(training, silent, qtbot):
    _steps(silent, 1, 200)
    qtbot.waitUntil(lambda: _number(training, "step") == "200")
    assert _number(training, "time") == "5"  # minutes: 200 steps at 1.6 s
    assert "of 400" in _words(training, "monitor_number_step")
    assert "promised 21.7" in _words(training, "monitor_number_peak")


def test_a_loss_that_is_no_number_is_a_gap_with_its_step(training, silent, qtbot):  # R12
    bad = Example(total_steps=400, nan_at=(23,), spikes=())
    for number in range(1, 41):
        silent.hear(step_event(number, bad))
    qtbot.waitUntil(lambda: len(training.stretch.points) == 40)
    chart = _chart(training, "monitor_loss")
    assert [label.toPlainText() for label in chart._labels] == ["NaN at step 23"]
    assert all(np.isnan(values[22]) for values in _values(chart))


def test_pause_asks_the_engine_and_says_what_happens(training, silent, qtbot):
    _click(qtbot, training, "monitor_pause")
    assert silent.said(commands.PauseTraining)
    assert training.banner.text() == "Pausing as soon as it can; no step is finished yet"
    assert not _button(training, "monitor_stop").isEnabled()


def test_save_now_asks_for_a_checkpoint(training, silent, qtbot):
    _click(qtbot, training, "monitor_save_now")
    assert silent.said(commands.SaveNow)


def test_stop_asks_at_the_button_before_it_stops(training, silent, qtbot):  # R4
    _click(qtbot, training, "monitor_stop")
    popover = training.window().findChild(QWidget, "monitor_stop_popover")
    qtbot.mouseClick(popover.findChild(QWidget, "monitor_stop_popover_no"), Qt.MouseButton.LeftButton)
    assert not silent.said(commands.StopTraining)
    _click(qtbot, training, "monitor_stop")
    popover = training.window().findChild(QWidget, "monitor_stop_popover")
    qtbot.mouseClick(popover.findChild(QWidget, "monitor_stop_popover_yes"), Qt.MouseButton.LeftButton)
    assert silent.said(commands.StopTraining)


def test_before_the_first_step_a_stop_promises_no_adapter(training, qtbot):
    _click(qtbot, training, "monitor_stop")
    popover = training.window().findChild(QWidget, "monitor_stop_popover")
    assert "no adapter is written" in popover.accessibleName()
    assert popover.findChild(QPushButton, "monitor_stop_popover_yes").text() == "Stop"


def test_after_a_step_a_stop_names_what_is_saved(training, silent, qtbot):
    _steps(silent, 1, 12)
    _click(qtbot, training, "monitor_stop")
    popover = training.window().findChild(QWidget, "monitor_stop_popover")
    assert popover.accessibleName().startswith("Stop after saving step 12? The adapter is written")


def test_the_run_is_called_by_its_name_and_its_folder_stands_in_the_tooltip(app, silent, home, open_run):
    folder = make_run(home / "runs", TRAINING)
    app.engine.train(folder, "My first try")
    page = open_run(folder)
    assert _text(page, "monitor_title") == "My first try"
    assert folder.name in page.findChild(QLabel, "monitor_title").toolTip()
    app.engine.rename(folder, "My second try")
    assert _text(page, "monitor_title") == "My second try"


def test_samples_grow_with_the_checkpoints(training, silent):
    for step, reply in ((20, "Two trays."), (40, "Three trays.")):
        silent.hear(events.SampleReady(step=step, index=0, prompt="Rolls?", reply=reply, tokens=3, time=0.0))
    text = training.findChild(QTextEdit, "monitor_samples").toPlainText()
    assert "Rolls?" in text and "Two" in text and "Three" in text


def test_all_checkpoints_stand_beside_each_other(open_run, make, qtbot):
    page = open_run(make(end="paused", evaluate_every=100))
    _click(qtbot, page, "monitor_all_samples")
    model = page.findChild(QTableView, "monitor_samples_table").model()
    titles = [model.headerData(column, Qt.Orientation.Horizontal) for column in range(model.columnCount())]
    assert titles == ["Prompt", "Step 100", "Step 200", "Step 300"]
    assert "Please contact support" in model.index(0, 1).data()
    assert "thanks for the order number" in model.index(0, 3).data()
    _click(qtbot, page, "monitor_samples_back")
    assert _chart(page, "monitor_loss").isVisible()


def test_many_steps_at_once_are_painted_at_most_ten_times_a_second(training, app, silent, qtbot):
    painted: list[float] = []
    app.monitor.grown.connect(lambda: painted.append(time.monotonic()))
    for number in range(1, 2_001):
        silent.hear(step_event(number, Example(total_steps=2_000, spikes=())))
        if number % 100 == 0:
            qtbot.wait(10)
    qtbot.waitUntil(lambda: len(training.stretch.points) == 2_000)
    assert len(painted) <= 2 + 10 * (painted[-1] - painted[0])
    assert training.stretch.points.rewinds <= 1


def test_a_run_that_died_says_how_and_offers_to_go_on(training, app, silent, qtbot, make):
    silent.engines[-1].end("killed by the system, memory?")
    qtbot.waitUntil(lambda: "The engine ended" in training.banner.text())
    assert "killed by the system, memory?" in training.banner.text()


def test_the_first_adapter_of_all_is_said_to_be_ready(training, app, silent, qtbot):
    folder = app.monitor.folder
    _steps(silent, 1, 5)
    (folder / "adapter").mkdir()
    write_state(folder, RunState(state="finished", step=5, adapter="adapter", evaluation_loss=1.1))
    silent.hear(events.RunFinished(run=str(folder), step=5, adapter="adapter", state="finished"))
    qtbot.waitUntil(lambda: training.banner.text() == "Your first adapter is ready: evaluation loss 1.100.")
    assert app.preferences.values.first_run_done


# How it ended ---------------------------------------------------------------------------------------


def test_a_finished_run_can_be_talked_to_and_exported(open_run, make, asked, qtbot):
    folder = make(end="finished", steps=400)
    page = open_run(folder)
    assert page.banner.text() == "Finished at step 400: evaluation loss 1.420 before, 1.197 now."
    _click(qtbot, page, "monitor_chat")
    _click(qtbot, page, "monitor_export")
    assert asked == [("chat", folder), ("export", folder)]


def test_an_interrupted_run_goes_on_from_its_newest_sound_checkpoint(open_run, make, silent, qtbot):  # R2
    folder = make(end="running")
    page = open_run(folder)
    assert "Nothing before step 300 is lost." in page.banner.text()
    _click(qtbot, page, "monitor_resume")
    assert silent.asked(reading.CheckResume)[0].run == str(folder)


def test_after_a_pause_one_button_resumes(open_run, make, silent, qtbot):
    page = open_run(make(end="paused"))
    offers = [button for button in page.findChildren(QPushButton) if button.text().startswith("Resume")]
    assert [button.objectName() for button in offers if button.isVisible()] == ["monitor_pause"]
    assert "Paused at step 300" in page.banner.text()


def test_a_pause_before_the_first_step_claims_nothing_was_learned(open_run, make):
    page = open_run(make(end="paused", steps=0, checkpoints=False))
    assert page.banner.text() == "Paused before the first step, the GPU is free. Nothing is learned yet."
    assert _button(page, "monitor_pause").text() == "Resume"
    assert page.findChild(QPushButton, "monitor_resume") is None


def test_a_damaged_checkpoint_is_not_offered(open_run, make):  # R2
    folder = make(end="running")
    (folder / "checkpoints" / "step-000300" / "optimizer.safetensors").write_bytes(b"")
    page = open_run(folder)
    assert page.findChild(QPushButton, "monitor_resume") is None


def test_a_refused_resume_says_why_and_the_curves_stay(open_run, make, silent, qtbot):  # R3
    page = open_run(make(end="paused"))
    _click(qtbot, page, "monitor_pause")
    silent.refuse(reading.CheckResume, "chats.jsonl changed since this run began.", "Start a new run.")
    assert page.banner.text() == "chats.jsonl changed since this run began. Start a new run."
    assert len(page.stretch.points) == 300


def test_a_resumed_run_is_live_again(open_run, make, app, silent, qtbot):
    folder = make(end="paused")
    page = open_run(folder)
    _click(qtbot, page, "monitor_pause")
    silent.answer(reading.CheckResume, reading.ResumeReady, run=str(folder), step=300)
    qtbot.waitUntil(lambda: not app.monitor.loading)
    assert app.monitor.live
    assert _button(page, "monitor_pause").text() == "Pause"
    silent.hear(step_event(301, TRAINING))
    qtbot.waitUntil(lambda: len(page.stretch.points) == 301)


def test_a_run_that_ended_without_numbers_offers_half_the_learning_rate(open_run, make, app, asked, qtbot):
    message = "Loss or gradient was no finite number 3 times in a row, last at step 300."
    page = open_run(make(end="failed", cause="non_finite", message=message))
    assert message in page.banner.text()
    _click(qtbot, page, "monitor_half_rate")
    assert app.draft.value("training.learning_rate") == pytest.approx(1e-4)
    assert asked == [("train", None)]


def test_out_of_memory_says_what_was_needed_and_free(open_run, make):  # R14
    message, hint = "The GPU ran out of memory at step 300: 2.1 GiB more were needed.", "Try rank 32."
    page = open_run(make(end="failed", cause="out_of_memory", message=message, hint=hint))
    assert f"{message} {hint}" in page.banner.text()
    assert _text(page, "monitor_state") == "Out of memory"


def test_a_run_of_another_window_is_read_only_and_followed(open_run, make, qtbot):  # R8
    folder = make(end="running")
    with RunLock(folder):
        page = open_run(folder)
        assert _text(page, "monitor_state") == "Open elsewhere"
        assert not _button(page, "monitor_stop").isVisible()
        with (folder / METRICS_FILE).open("ab") as metrics:
            metrics.write(EVENTS.encode(step_event(301, TRAINING)))
        qtbot.waitUntil(lambda: len(page.stretch.points) == 301, timeout=3_000)


def test_another_run_shows_nothing_of_the_one_before(open_run, make, app, qtbot):
    first, second = make(name="first", end="paused"), make(name="second", steps=500, end="paused")
    page = open_run(first)
    page.stretch.show(100, 200)
    page.opened(second)
    assert len(page.stretch.points) == 0
    qtbot.waitUntil(lambda: not app.monitor.loading)
    assert page.stretch.last >= 500
    assert _number(page, "step") == "500"


def test_a_folder_that_is_no_run_says_so(open_run, home):
    folder = home / "runs" / "nothing"
    folder.mkdir(parents=True)
    page = open_run(folder)
    assert "run.json is missing" in page.banner.text()


def test_broken_lines_are_counted(open_run, make):  # R5
    folder = make(end="paused")
    with (folder / METRICS_FILE).open("ab") as metrics:
        metrics.write(b"{broken\n")
    assert _text(open_run(folder), "monitor_skipped") == "1 line of metrics.jsonl skipped"


def test_hostile_text_is_shown_as_it_is_written(open_run, make):  # S8
    page = open_run(make(name="<b>big</b>\u202egnp", end="failed", message="<img src='x'>", cause="error"))
    labels = [label for label in page.findChildren(QLabel) if "<b>big</b>" in label.text()]
    assert labels and all(label.textFormat() is Qt.TextFormat.PlainText for label in labels)
    assert "\u202e" not in labels[0].text()
    assert "<img src='x'>" in page.banner.text()


# A run that is being made ready ---------------------------------------------------------------------


def test_a_run_being_made_ready_is_followed_into_its_folder(app, silent, home, open_run, qtbot):
    folder = make_run(home / "runs", TRAINING)
    app.draft.set("model.path", "/models/llama")
    app.launcher.start(app.draft.config, "my-run")
    page = open_run(None)
    silent.tell_progress(reading.PrepareRun, 5, 20, "Counting tokens")
    assert _text(page, "monitor_state") == "Preparing"
    assert _text(page, "monitor_waiting") == "Counting tokens 5 of 20"
    silent.answer(reading.PrepareRun, reading.RunPrepared, run=str(folder), **PREPARED)
    qtbot.waitUntil(lambda: not app.monitor.loading)
    assert (app.monitor.folder, app.monitor.live) == (folder, True)


def test_what_is_being_made_ready_can_be_cancelled(app, silent, open_run, qtbot):
    app.draft.set("model.path", "/models/llama")
    app.launcher.start(app.draft.config, "my-run")
    page = open_run(None)
    assert not _button(page, "monitor_pause").isVisible()
    _click(qtbot, page, "monitor_cancel")
    assert (app.launcher.busy, silent.asked(reading.PrepareRun)) == (False, [])
    assert not _button(page, "monitor_cancel").isVisible()
    assert "No run is open" in _text(page, "monitor_waiting")
    assert not page.findChild(QWidget, "monitor_state").isVisible()


def test_a_resume_that_is_cancelled_leaves_the_run_paused(app, silent, make, open_run, qtbot):
    page = open_run(make(end="paused"))
    _click(qtbot, page, "monitor_pause")
    assert not _button(page, "monitor_pause").isVisible()
    _click(qtbot, page, "monitor_cancel")
    assert silent.asked(reading.CheckResume) == []
    assert _button(page, "monitor_pause").text() == "Resume"
    assert "Paused at step 300" in page.banner.text()


def test_a_run_that_could_not_be_made_ready_says_why(app, silent, open_run):
    app.draft.set("model.path", "/models/llama")
    app.launcher.start(app.draft.config, "my-run")
    page = open_run(None)
    silent.refuse(reading.PrepareRun, "chats.jsonl is empty.", "Choose another file.")
    assert page.banner.text() == "chats.jsonl is empty. Choose another file."


def test_without_any_run_it_names_the_step_before(open_run):
    assert "Choose one on the Runs page" in _text(open_run(None), "monitor_waiting")


# The charts -----------------------------------------------------------------------------------------


def test_the_crosshair_stands_in_all_charts_with_one_readout(open_run, make):
    page = open_run(make(end="paused"))
    page.stretch.point_near(173.0)
    assert all(
        _chart(page, name)._crosshair.isVisible() for name in ("monitor_loss", "monitor_vram", "monitor_lr")
    )
    assert "Step 173" in page.findChild(QWidget, "monitor_readout").accessibleName()


@pytest.mark.parametrize(
    ("key", "modifier", "step"),
    [
        (Qt.Key.Key_Home, Qt.KeyboardModifier.NoModifier, 1),
        (Qt.Key.Key_End, Qt.KeyboardModifier.NoModifier, 300),
        (Qt.Key.Key_Left, Qt.KeyboardModifier.NoModifier, 149),
        (Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier, 200),
    ],
)
def test_keys_move_the_crosshair(open_run, make, qtbot, key, modifier, step):
    page = open_run(make(end="paused"))
    page.stretch.point_near(150.0)
    chart = _focused(page, qtbot, "monitor_loss")
    qtbot.keyClick(chart, key, modifier)
    assert int(page.stretch.points.steps[page.stretch.place]) == step


def test_dragging_zooms_to_the_steps_under_it_in_all_charts(open_run, make, qtbot):
    page = open_run(make(end="paused"))
    chart = _chart(page, "monitor_loss")
    left, right = (QPoint(chart.x_of(step), 60) for step in (100, 200))
    qtbot.mousePress(chart.viewport(), Qt.MouseButton.LeftButton, pos=left)
    qtbot.mouseMove(chart.viewport(), right)
    qtbot.mouseRelease(chart.viewport(), Qt.MouseButton.LeftButton, pos=right)
    assert page.stretch.first == pytest.approx(100, abs=2)
    assert page.stretch.last == pytest.approx(200, abs=2)
    for name in ("monitor_loss", "monitor_vram", "monitor_speed"):
        assert _chart(page, name).box.viewRange()[0] == pytest.approx([100, 200], abs=2)


def test_a_double_click_shows_all_steps_again(open_run, make, qtbot):
    page = open_run(make(end="paused"))
    page.stretch.show(100, 200)
    qtbot.mouseDClick(_chart(page, "monitor_loss").viewport(), Qt.MouseButton.LeftButton)
    assert page.stretch.first <= 0 and page.stretch.last >= 400


def test_while_the_newest_step_is_in_sight_it_stays_so(training, silent, qtbot):
    _steps(silent, 1, 100)
    qtbot.waitUntil(lambda: len(training.stretch.points) == 100)
    training.stretch.show(60, 105)
    _steps(silent, 101, 150)
    qtbot.waitUntil(lambda: len(training.stretch.points) == 150)
    assert (training.stretch.first, training.stretch.last) == (110, 155)


def test_the_loss_can_be_shown_on_a_logarithmic_scale(open_run, make, qtbot):
    page = open_run(make(end="paused"))
    chart = _chart(page, "monitor_loss")
    plain = np.nanmax(_values(chart)[0])
    _click(qtbot, page, "monitor_loss_log")
    assert np.nanmax(_values(chart)[0]) == pytest.approx(math.log10(plain))


def test_no_smoothing_draws_each_step(open_run, make, qtbot):
    page = open_run(make(end="paused"))
    page.findChild(QSlider, "monitor_smoothing").setValue(0)
    qtbot.waitUntil(lambda: np.array_equal(*_values(_chart(page, "monitor_loss"))))


def test_memory_is_stacked_by_part_and_a_spike_is_named(open_run, make):
    page = open_run(make(end="paused", spikes=(220,)))
    chart = _chart(page, "monitor_vram")
    tops = [float(np.median(chart._areas[part].y)) for part in ("weights", "optimizer", "other")]
    assert tops == sorted(tops) and tops[0] == pytest.approx(5.5)
    assert "Step 220 took" in _words(page, "monitor_spike")


def test_on_a_processor_it_is_called_process_memory(open_run, make):
    page = open_run(make(end="paused", device="cpu"))
    assert "Process memory" in _words(page, "monitor_vram_card")
    assert not page.findChild(QWidget, "monitor_gpu_card").isVisible()


def test_before_a_run_is_open_it_speaks_of_the_memory_of_this_machine(open_run, app):
    page = open_run(None)
    assert "Process memory" in _words(page, "monitor_vram_card")
    assert "Memory peak" in _words(page, "monitor_number_peak")
    card = CardReading(
        name="RTX 6000 Ada", total_bytes=47 * 2**30, used_bytes=0, load=None, temperature_c=None,
        power_w=None, other_bytes=None,
    )  # fmt: skip
    app.machine._on_read(card, 412 * 10**9)
    app.monitor.changed.emit()
    assert "VRAM" in _words(page, "monitor_vram_card")


@pytest.mark.parametrize("limit_gib", [20.0, 21.0, 21.7, 22.0, 23.0, 25.0, 30.0, 47.4, 200.0])
@pytest.mark.parametrize("height", [190, 300])
def test_the_words_of_limit_and_promise_never_lie_on_each_other(open_run, make, limit_gib, height):
    page = open_run(make(end="paused"))
    chart = _chart(page, "monitor_vram")
    chart.resize(500, height)
    chart.set_levels("card limit", int(limit_gib * 2**30), int(21.7 * 2**30))
    words = [level.label.sceneBoundingRect() for level in chart._levels.values()]
    assert not words[0].intersects(words[1])
    assert all(chart.sceneRect().contains(place) for place in words)


@pytest.mark.parametrize("name", ["monitor_lr", "monitor_grad_norm", "monitor_speed"])
@pytest.mark.parametrize("text_size", [100, 200])
def test_numbers_of_a_low_axis_have_a_line_each(open_run, make, name, text_size):
    theme().set_text_size(text_size)
    page = open_run(make(end="paused"))
    axis = _chart(page, name).axes["left"]
    (low, high), height = axis.range, axis.height()
    ticks = sorted(value for _, values in axis.tickValues(low, high, height) for value in values)
    lines = [(after - before) / (high - low) * height for before, after in pairwise(ticks)]
    theme().set_text_size(100)
    assert len(ticks) >= 2
    assert min(lines) >= QFontMetrics(axis.style["tickFont"]).height()


def test_the_curves_can_be_read_as_a_table(open_run, make, qtbot):
    page = open_run(make(end="paused", nan_at=(150,), evaluate_every=100))
    chart = _focused(page, qtbot, "monitor_loss")
    qtbot.keyClick(chart, Qt.Key.Key_T)
    model = page.findChild(QTableView, "monitor_table").model()
    assert model.rowCount() == 300 and not chart.isVisible()
    assert [model.index(149, column).data() for column in (0, 2, 3)] == [
        "150",
        "not a number",
        "not a number",
    ]
    assert model.index(99, 4).data() == "1.363"
    _click(qtbot, page, "monitor_as_charts")
    assert chart.isVisible()


def test_the_table_of_steps_is_a_sound_model(open_run, make, qtmodeltester, qtbot):
    page = open_run(make(end="paused"))
    _click(qtbot, page, "monitor_as_table")
    qtmodeltester.check(page.findChild(QTableView, "monitor_table").model())


def test_what_is_shown_is_saved_as_numbers(open_run, make, app, tmp_path, qtbot):
    page = open_run(make(end="paused", nan_at=(150,), evaluate_every=100))
    page.stretch.show(100, 200)
    with qtbot.waitSignal(app.monitor.saved):
        page.export.save_table(str(tmp_path / "points.csv"))
    lines = (tmp_path / "points.csv").read_text().splitlines()
    assert lines[0].startswith("step,elapsed_s,loss,smoothed_loss,evaluation_loss")
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(100, 201))
    assert lines[51].startswith("150,240.0,nan,nan,")


def test_while_charts_are_moved_their_edges_are_not_smoothed_and_then_they_are(open_run, make, qtbot):
    page = open_run(make(end="paused"))
    page.stretch.show(100, 200)
    drawn = [_chart(page, name)._strokes for name in ("monitor_loss", "monitor_vram", "monitor_lr")]
    assert not any(strokes.fine for strokes in drawn)
    qtbot.waitUntil(lambda: all(strokes.fine for strokes in drawn))


def test_charts_that_only_grow_are_always_drawn_with_smooth_edges(training, silent, qtbot):
    _steps(silent, 1, 40)
    qtbot.waitUntil(lambda: len(training.stretch.points) == 40)
    assert _chart(training, "monitor_loss")._strokes.fine


def test_a_picture_saved_while_charts_are_moved_has_smooth_edges(open_run, make, tmp_path):
    page = open_run(make(end="paused"))
    page.stretch.show(100, 200)
    page.export.save_picture(str(tmp_path / "charts.png"))
    assert _chart(page, "monitor_loss")._strokes.fine


def test_what_is_shown_is_saved_as_a_picture_of_twice_the_pixels(open_run, make, tmp_path):
    page = open_run(make(end="paused"))
    page.export.save_picture(str(tmp_path / "charts.png"))
    assert QImage(str(tmp_path / "charts.png")).width() >= 2 * _chart(page, "monitor_loss").width()


def test_every_key_of_the_page_stands_in_its_menu(open_run):
    keys = {action.shortcut().toString() for action in open_run(None).menu.actions()}
    assert {
        "Ctrl+P",
        "Ctrl+S",
        "Ctrl+.",
        "Ctrl+E",
        "F",
        "L",
        "C",
        "Left",
        "Shift+Right",
        "Home",
        "End",
    } <= keys


def _started(silent, folder):
    silent.hear(events.RunStarted(run=str(folder), step=0, total_steps=400, resumed=False, time=0.0))


def _steps(silent, first, last):
    for number in range(first, last + 1):
        silent.hear(step_event(number, TRAINING))


def _chart(page, name):
    return page.findChild(QWidget, name)


def _focused(page, qtbot, name):
    """Where keys go."""
    chart = _chart(page, name)
    page.activateWindow()
    chart.setFocus()
    qtbot.waitUntil(chart.hasFocus)
    return chart


def _drawn(chart):
    """Points of each line."""
    return [len(values) for values in _values(chart)]


def _values(chart):
    return [line.stroke.y for line in chart._step_lines]


def _number(page, name):
    return page.findChild(QWidget, f"monitor_number_{name}").number.text()


def _words(page, name):
    return " ".join(label.text() for label in page.findChild(QWidget, name).findChildren(QLabel))


def _text(page, name):
    widget = page.findChild(QWidget, name)
    return widget.text() if widget.isVisible() else ""


def _button(page, name):
    return page.findChild(QPushButton, name)


def _click(qtbot, page, name):
    qtbot.mouseClick(_button(page, name), Qt.MouseButton.LeftButton)
