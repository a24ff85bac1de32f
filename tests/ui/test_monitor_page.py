"""The Monitor: a run as it trains, as it ended, and as it can go on."""

from __future__ import annotations

import threading
import time

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QLabel, QPushButton, QTableView, QTextEdit, QWidget

from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.lines import EVENTS
from qlora_studio.runs.evaluations import ChangedRow, Evaluation, add_evaluation
from qlora_studio.runs.less_memory import LessMemory, write_less_memory
from qlora_studio.runs.lock import RunLock
from qlora_studio.runs.metrics import METRICS_FILE
from qlora_studio.runs.run_state import RunState, write_state
from qlora_studio.state import run_reading
from qlora_studio.state.run_end import Action, Ending
from qlora_studio.ui.pages.monitor import MonitorPage
from qlora_studio.ui.pages.monitor_banner import ending_buttons
from tests.state.reports import PREPARED
from tests.ui.example_runs import TRAINING, Example, hear_steps, make_run, step_event
from tests.ui.person import click, found, words

# While it trains ------------------------------------------------------------------------------------


def test_before_the_first_step_it_says_what_the_engine_does(training, silent):
    silent.hear(events.LoadingProgress(done=143, total=291, words="Loading Llama-3.1-8B"))
    assert words(training, "monitor_waiting") == "Loading Llama-3.1-8B: 143 of 291"


def test_the_figures_say_where_it_is_and_when_it_is_done(training, silent, qtbot):
    hear_steps(silent, 1, 200)
    qtbot.waitUntil(lambda: _number(training, "step") == "200")
    assert _number(training, "time") == "5"  # minutes: 200 steps at 1.6 s
    assert "of 400" in words(training, "monitor_number_step")
    assert "promised 21.7" in words(training, "monitor_number_peak")


def test_pause_asks_the_engine_and_says_what_happens(training, silent, qtbot):
    click(qtbot, training, "monitor_pause")
    assert silent.said(commands.PauseTraining)
    assert training.banner.text() == "Pausing as soon as it can; no step is finished yet"
    assert not found(training, "monitor_stop").isEnabled()
    assert training.window().focusWidget() is training  # and not what comes next, the smoothing


def test_save_now_asks_for_a_checkpoint(training, silent, qtbot):
    click(qtbot, training, "monitor_save_now")
    assert silent.said(commands.SaveNow)


def test_stop_asks_at_the_button_before_it_stops(training, silent, qtbot):  # R4
    click(qtbot, training, "monitor_stop")
    popover = training.window().findChild(QWidget, "monitor_stop_popover")
    qtbot.mouseClick(popover.findChild(QWidget, "monitor_stop_popover_no"), Qt.MouseButton.LeftButton)
    assert not silent.said(commands.StopTraining)
    click(qtbot, training, "monitor_stop")
    popover = training.window().findChild(QWidget, "monitor_stop_popover")
    qtbot.mouseClick(popover.findChild(QWidget, "monitor_stop_popover_yes"), Qt.MouseButton.LeftButton)
    assert silent.said(commands.StopTraining)


def test_before_the_first_step_a_stop_promises_no_adapter(training, qtbot):
    click(qtbot, training, "monitor_stop")
    popover = training.window().findChild(QWidget, "monitor_stop_popover")
    assert "nothing is learned or written" in popover.accessibleName()
    assert popover.findChild(QPushButton, "monitor_stop_popover_yes").text() == "Stop"


def test_after_a_step_a_stop_names_what_is_saved(training, silent, qtbot):
    hear_steps(silent, 1, 12)
    click(qtbot, training, "monitor_stop")
    popover = training.window().findChild(QWidget, "monitor_stop_popover")
    assert popover.accessibleName().startswith("Stop after saving step 12? What was learned is written")


def test_the_run_is_called_by_its_name_and_its_folder_stands_in_the_tooltip(app, silent, home, open_run):
    folder = make_run(home / "runs", TRAINING)
    app.engine.train(folder, "My first try")
    page = open_run(folder)
    assert words(page, "monitor_title") == "My first try"
    assert folder.name in page.findChild(QLabel, "monitor_title").toolTip()
    app.engine.rename(folder, "My second try")
    assert words(page, "monitor_title") == "My second try"


def test_samples_grow_with_the_checkpoints(training, silent):
    for step, reply in ((20, "Two trays."), (40, "Three trays.")):
        silent.hear(events.SampleReady(step=step, index=0, prompt="Rolls?", reply=reply, tokens=3, time=0.0))
    text = training.findChild(QTextEdit, "monitor_samples").toPlainText()
    assert "Rolls?" in text and "Two" in text and "Three" in text


def test_answers_to_rows_held_out_are_awaited_though_no_prompt_was_written(open_run, make, training):
    assert words(training, "monitor_samples_card").endswith("with the first checkpoint.")
    without = make(end="paused", evaluate_every=100)
    (without / "samples.jsonl").unlink()
    assert words(open_run(without), "monitor_samples_card").endswith(
        "No sample prompt was answered in this run."
    )


def test_all_checkpoints_stand_beside_each_other(open_run, make, qtbot):
    page = open_run(make(end="paused", evaluate_every=100))
    click(qtbot, page, "monitor_all_samples")
    model = page.findChild(QTableView, "monitor_samples_table").model()
    titles = [model.headerData(column, Qt.Orientation.Horizontal) for column in range(model.columnCount())]
    assert titles == ["Prompt", "Step 100", "Step 200", "Step 300"]
    assert "Please contact support" in model.index(0, 1).data()
    assert "thanks for the order number" in model.index(0, 3).data()
    click(qtbot, page, "monitor_samples_back")
    assert found(page, "monitor_loss").isVisible()


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
    hear_steps(silent, 1, 5)
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
    click(qtbot, page, "monitor_chat")
    click(qtbot, page, "monitor_export")
    assert asked == [("chat", folder), ("export", folder)]


def test_an_interrupted_run_goes_on_from_its_newest_sound_checkpoint(open_run, make, silent, qtbot):  # R2
    folder = make(end="running")
    page = open_run(folder)
    assert "Nothing before step 300 is lost." in page.banner.text()
    click(qtbot, page, "monitor_resume")
    assert silent.asked(reading.CheckResume)[0].run == str(folder)


def test_after_a_pause_one_button_resumes(open_run, make, silent, qtbot):
    page = open_run(make(end="paused"))
    offers = [button for button in page.findChildren(QPushButton) if button.text().startswith("Resume")]
    assert [button.objectName() for button in offers if button.isVisible()] == ["monitor_pause"]
    assert "Paused at step 300" in page.banner.text()


def test_a_run_that_is_resumed_shows_its_charts(open_run, make, silent, qtbot):
    page = open_run(make(end="paused"))
    click(qtbot, page, "monitor_evaluate")
    assert not found(page, "monitor_loss").isVisible()
    click(qtbot, page, "monitor_pause")
    assert found(page, "monitor_loss").isVisible()


def test_a_stopped_run_with_updates_left_is_resumed_from_its_monitor(open_run, make, silent, qtbot):
    folder = make(end="stopped")
    page = open_run(folder)
    assert found(page, "monitor_pause").text() == "Resume"
    click(qtbot, page, "monitor_pause")
    assert silent.asked(reading.CheckResume)[0].run == str(folder)


@pytest.mark.parametrize(("end", "usable"), [("finished", False), ("stopped", True), ("paused", True)])
def test_entries_of_the_menu_that_can_do_nothing_are_greyed_out(open_run, make, end, usable):
    page = open_run(make(end=end))
    entries = {action.text(): action.isEnabled() for action in page.menu.actions()}
    assert (entries["Pause or resume"], entries["Save now"], entries["Stop…"]) == (usable, False, False)


def test_while_it_trains_the_menu_pauses_saves_and_stops(training, silent, qtbot):
    entries = {action.text(): action for action in training.menu.actions()}
    named = [entries[words] for words in ("Pause or resume", "Save now", "Stop…")]
    assert all(entry.isEnabled() for entry in named)
    click(qtbot, training, "monitor_pause")
    assert not any(entry.isEnabled() for entry in named)


def test_a_pause_before_the_first_step_claims_nothing_was_learned(open_run, make):
    page = open_run(make(end="paused", steps=0, checkpoints=False))
    assert page.banner.text() == "Paused before the first step, the GPU is free. Nothing is learned yet."
    assert found(page, "monitor_pause").text() == "Resume"
    assert page.findChild(QPushButton, "monitor_resume") is None


def test_a_damaged_checkpoint_is_not_offered(open_run, make):  # R2
    folder = make(end="running")
    (folder / "checkpoints" / "step-000300" / "optimizer.safetensors").write_bytes(b"")
    page = open_run(folder)
    assert page.findChild(QPushButton, "monitor_resume") is None


def test_a_refused_resume_says_why_and_the_curves_stay(open_run, make, silent, qtbot):  # R3
    page = open_run(make(end="paused"))
    click(qtbot, page, "monitor_pause")
    silent.refuse(reading.CheckResume, "chats.jsonl changed since this run began.", "Start a new run.")
    assert page.banner.text() == "chats.jsonl changed since this run began. Start a new run."
    assert len(page.stretch.points) == 300


def test_a_resumed_run_is_live_again(open_run, make, app, silent, qtbot):
    folder = make(end="paused")
    page = open_run(folder)
    click(qtbot, page, "monitor_pause")
    silent.answer(reading.CheckResume, reading.ResumeReady, run=str(folder), step=300)
    qtbot.waitUntil(lambda: not app.monitor.loading)
    assert app.monitor.live
    assert found(page, "monitor_pause").text() == "Pause"
    silent.hear(step_event(301, TRAINING))
    qtbot.waitUntil(lambda: len(page.stretch.points) == 301)


def test_a_run_that_ended_without_numbers_offers_half_the_learning_rate(open_run, make, app, asked, qtbot):
    message = "Loss or gradient was no finite number 3 times in a row, last at step 300."
    page = open_run(make(end="failed", cause="non_finite", message=message))
    assert message in page.banner.text()
    click(qtbot, page, "monitor_half_rate")
    assert app.draft.value("training.learning_rate") == pytest.approx(1e-4)
    assert asked == [("train", None)]


@pytest.mark.fault(17)
def test_out_of_memory_says_what_was_needed_and_free(open_run, make):  # R14
    message, hint = "The GPU ran out of memory at step 300: 2.1 GiB more were needed.", "Try rank 32."
    page = open_run(make(end="failed", cause="out_of_memory", message=message, hint=hint))
    assert f"{message} {hint}" in page.banner.text()
    assert words(page, "monitor_state") == "Out of memory"


@pytest.mark.fault(17)
def test_what_was_held_when_memory_ran_out_stands_beside_the_chart(open_run, make):  # R14
    held = "Held were weights 5.50. Its largest batch was training row 12 (2,044 tokens)."
    message = f"The GPU ran out of memory at step 300: 2.1 GiB more were needed. {held}"
    page = open_run(make(end="failed", cause="out_of_memory", message=message))
    assert words(page, "monitor_memory_words") == held
    assert "Held" not in page.banner.text()
    assert not found(open_run(make(name="other", end="paused")), "monitor_memory_words").isVisible()


def test_what_a_run_does_to_take_less_stands_beside_the_chart(open_run, make, training, silent):
    notes = ("All layers are recomputed.", "2 rows at once instead of 4.")
    silent.hear(
        events.ModelLoaded(
            model="m", parameters=1, trainable_parameters=1, seconds=1.0, device_name="d",
            compute_dtype="bfloat16", notes=notes,
        )
    )  # fmt: skip
    assert (
        words(training, "monitor_memory_words") == "All layers are recomputed. 2 rows at once instead of 4."
    )

    folder = make(name="ended", end="paused")
    write_less_memory(folder, LessMemory(left_out=(11,)))
    assert words(open_run(folder), "monitor_memory_words") == "1 row is left out: 12."


WAYS = ("recompute", "half_rows", "eight_bit", "without_rows")


@pytest.mark.fault(17)
@pytest.mark.parametrize("way", WAYS)
def test_out_of_memory_is_resumed_with_less_by_one_click(open_run, make, silent, way):  # R14
    folder = make(end="failed", cause="out_of_memory", message="Out of memory.", ways=WAYS, rows=(3, 9))
    page = open_run(folder)
    assert found(page, "monitor_without_rows").text() == "Resume without 2 rows"
    found(page, f"monitor_{way}").click()
    assert silent.asked(reading.CheckResume)[0].ways == (way,)
    silent.answer(reading.CheckResume, reading.ResumeReady, run=str(folder), step=300)
    assert silent.last_said(commands.Train) == commands.Train(run=str(folder), ways=(way,))


@pytest.mark.parametrize("dequantized", [True, False])
def test_what_is_given_up_with_all_layers_recomputed_is_in_its_tip(qapp, dequantized):
    ending = Ending("bad", "Out of memory.", (Action.RECOMPUTE,), dequantized=dequantized)
    (button,) = ending_buttons(ending, 300, "", print)
    assert button.toolTip().startswith("All layers are computed again")
    assert ("dequantized" in button.toolTip()) == dequantized


@pytest.mark.fault(17)
def test_the_keys_resume_what_ran_out_of_memory_as_the_engine_does_by_itself(open_run, make, silent, qtbot):
    page = open_run(make(end="failed", cause="out_of_memory", message="Out of memory.", ways=WAYS))
    qtbot.keyClick(page, Qt.Key.Key_P, Qt.KeyboardModifier.ControlModifier)
    assert silent.asked(reading.CheckResume)[0].ways == ()


@pytest.mark.fault(13)
def test_a_run_of_another_window_is_read_only_and_followed(open_run, make, qtbot):  # R8
    folder = make(end="running")
    with RunLock(folder):
        page = open_run(folder)
        assert words(page, "monitor_state") == "Open elsewhere"
        assert not found(page, "monitor_stop").isVisible()
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


def test_a_run_before_its_first_step_shows_no_figure_of_the_one_before(
    open_run, make, app, silent, home, qtbot
):
    page = open_run(make(name="first", end="failed", cause="non_finite", nan_at=(290,)))
    cards = [f"monitor_{name}_card" for name in ("lr", "grad_norm", "speed")]
    assert not any(words(page, card).endswith("–") for card in cards)
    fresh = make_run(home / "runs", TRAINING)
    app.engine.train(fresh)
    page.opened(fresh)
    qtbot.waitUntil(lambda: not app.monitor.loading)
    assert [words(page, card)[-1] for card in cards] == ["–", "–", "–"]
    chart = found(page, "monitor_loss")
    assert not len(chart._saved.getData()[0])
    assert not chart._labels


def test_a_long_run_is_sketched_while_all_of_it_is_read(app, make, qtbot, monkeypatch):
    monkeypatch.setattr("qlora_studio.runs.metrics_sketch.SKETCHED_FROM", 1 << 16)
    monkeypatch.setattr("qlora_studio.runs.metrics_sketch._PIECES", 4)
    monkeypatch.setattr("qlora_studio.runs.metrics_sketch._PIECE", 1 << 12)
    looked_at, load = threading.Event(), run_reading.load
    monkeypatch.setattr(run_reading, "load", lambda *words: looked_at.wait(60) and load(*words))
    page = MonitorPage(app).whole()
    qtbot.addWidget(page)
    page.show()
    page.opened(make(steps=1_000, end="paused"))
    qtbot.waitUntil(lambda: 0 < len(page.stretch.points) < 1_000)
    assert words(page, "monitor_waiting") == "Reading all steps; a part of them is drawn"
    assert not found(page, "monitor_export").isEnabled()  # it would save a part as if it were all
    assert app.monitor.figures.step == 1_000
    assert (app.monitor.figures.loss_change, app.monitor.figures.seconds_left) == (None, None)
    looked_at.set()
    qtbot.waitUntil(lambda: not app.monitor.loading)
    assert len(page.stretch.points) == 1_000
    assert found(page, "monitor_export").isEnabled()
    assert app.monitor.figures.loss_change is not None
    assert not found(page, "monitor_waiting").isVisible()


def test_a_folder_that_is_no_run_says_so(open_run, home):
    folder = home / "runs" / "nothing"
    folder.mkdir(parents=True)
    page = open_run(folder)
    assert "run.json is missing" in page.banner.text()


def test_broken_lines_are_counted(open_run, make):  # R5
    folder = make(end="paused")
    with (folder / METRICS_FILE).open("ab") as metrics:
        metrics.write(b"{broken\n")
    assert words(open_run(folder), "monitor_skipped") == "1 line of metrics.jsonl skipped"


@pytest.mark.fault(29)
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
    assert words(page, "monitor_state") == "Preparing"
    assert words(page, "monitor_waiting") == "Counting tokens 5 of 20"
    silent.answer(reading.PrepareRun, reading.RunPrepared, run=str(folder), **PREPARED)
    qtbot.waitUntil(lambda: app.monitor.folder == folder and not app.monitor.loading)
    assert app.monitor.live


def test_what_is_being_made_ready_can_be_cancelled(app, silent, open_run, qtbot):
    app.draft.set("model.path", "/models/llama")
    app.launcher.start(app.draft.config, "my-run")
    page = open_run(None)
    assert not found(page, "monitor_pause").isVisible()
    click(qtbot, page, "monitor_cancel")
    assert (app.launcher.busy, silent.asked(reading.PrepareRun)) == (False, [])
    assert not found(page, "monitor_cancel").isVisible()
    assert "No run is open" in words(page, "monitor_waiting")
    assert not page.findChild(QWidget, "monitor_state").isVisible()


def test_a_resume_that_is_cancelled_leaves_the_run_paused(app, silent, make, open_run, qtbot):
    page = open_run(make(end="paused"))
    click(qtbot, page, "monitor_pause")
    assert not found(page, "monitor_pause").isVisible()
    click(qtbot, page, "monitor_cancel")
    assert silent.asked(reading.CheckResume) == []
    assert found(page, "monitor_pause").text() == "Resume"
    assert "Paused at step 300" in page.banner.text()


def test_a_run_that_could_not_be_made_ready_says_why(app, silent, open_run):
    app.draft.set("model.path", "/models/llama")
    app.launcher.start(app.draft.config, "my-run")
    page = open_run(None)
    silent.refuse(reading.PrepareRun, "chats.jsonl is empty.", "Choose another file.")
    assert page.banner.text() == "chats.jsonl is empty. Choose another file."


def test_without_any_run_it_names_the_step_before(open_run):
    assert "Choose one on the Runs page" in words(open_run(None), "monitor_waiting")


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


def _number(page, name):
    return found(page, f"monitor_number_{name}").number.text()


# Before and after -----------------------------------------------------------------------------------


def _evaluated(folder, **fields):
    shown = {
        "time": 1_795_000_000.0, "step": 400, "file": "/data/mmlu.json", "rows": 400, "loss": 1.25,
        "base_loss": 1.75, "accuracy": 0.4125, "base_accuracy": 0.38, "low": 0.0075, "high": 0.0575,
        "p_value": 0.0241, "kind": "letters", "answered": 400, "gained": 1, "lost": 0,
        "changed": (ChangedRow(row=12, question="The <b>group</b>?", right="A", base="C", adapter="A"),),
    }  # fmt: skip
    add_evaluation(folder, Evaluation(**{**shown, **fields}))


def test_before_and_after_stand_in_a_table_with_the_rows_that_changed(open_run, make, app, qtbot):
    folder = make(end="finished", steps=400)
    _evaluated(folder)
    page = open_run(folder)
    click(qtbot, page, "monitor_evaluate")
    table = page.findChild(QTableView, "monitor_evaluations")
    qtbot.waitUntil(lambda: table.model().rowCount() == 1)
    row = [table.model().index(0, column).data() for column in range(table.model().columnCount())]
    assert row == [
        "mmlu.json", "400", "400", "1.750 → 1.250", "38.0% → 41.2%", "+3.2 (+0.8 to +5.8)",
    ]  # fmt: skip
    assert words(page, "monitor_evaluation_words") == (
        "Of 400 chosen letters: 1 right only after training, 0 only before. "
        "So uneven a split comes by chance in 2.4% of such tests (exact McNemar)."
    )
    changes = page.findChild(QTableView, "monitor_evaluation_changes").model()
    shown = [changes.index(0, column).data() for column in range(changes.columnCount())]
    assert shown == ["13", "The <b>group</b>?", "A", "C", "A", "right"]
    click(qtbot, page, "monitor_evaluations_back")
    assert found(page, "monitor_loss").isVisible()


def test_a_refused_file_is_read_otherwise_for_its_own_run_alone(open_run, make, app, silent, qtbot):
    asked, other = make(end="finished", steps=400), make(name="other", end="finished", steps=400)
    page = open_run(asked)
    click(qtbot, page, "monitor_evaluate")
    app.evaluation.start("/data/test.csv")
    refused = {"hint": "Choose its encoding (--encoding).", "likely_encoding": "windows-1252"}
    silent.refuse(reading.PrepareEvaluation, "Line 2 is not UTF-8.", **refused)
    assert found(page, "monitor_evaluate_read_as").isVisible()
    assert "--encoding" not in words(page, "monitor_evaluate_problem")
    page = open_run(other)
    click(qtbot, page, "monitor_evaluate")
    assert not found(page, "monitor_evaluate_problem").isVisible()
    assert not found(page, "monitor_evaluate_read_as").isVisible()
    page = open_run(asked)
    click(qtbot, page, "monitor_evaluate")
    click(qtbot, page, "monitor_evaluate_read_as")
    assert silent.asked(reading.PrepareEvaluation)[0].run == str(asked)


def test_a_file_is_evaluated_from_the_monitor(open_run, make, app, silent, qtbot):
    page = open_run(make(end="finished", steps=400))
    click(qtbot, page, "monitor_evaluate")
    assert found(page, "monitor_evaluations_empty").isVisible()
    click(qtbot, page, "monitor_evaluate_file")
    page.findChild(QFileDialog, "monitor_pick").fileSelected.emit("/data/test.jsonl")
    assert words(page, "monitor_evaluating") == "test.jsonl: Reading the file"
    assert not found(page, "monitor_evaluate_file").isEnabled()
    silent.refuse(reading.PrepareEvaluation, "Line 2 is not UTF-8.", likely_encoding="windows-1252")
    assert words(page, "monitor_evaluate_problem").startswith("Line 2 is not UTF-8. ")
    click(qtbot, page, "monitor_evaluate_read_as")
    silent.answer(reading.PrepareEvaluation, reading.EvaluationPrepared, prepared="/cache/rows", rows=2)
    click(qtbot, page, "monitor_evaluate_stop")
    assert silent.said(commands.StopEvaluating)


def test_what_was_forgotten_is_asked_with_the_bundled_questions(open_run, make, silent, qtbot):
    folder = make(end="finished", steps=400)
    _evaluated(folder, file="general")
    page = open_run(folder)
    click(qtbot, page, "monitor_evaluate")
    table = page.findChild(QTableView, "monitor_evaluations")
    qtbot.waitUntil(lambda: table.model().rowCount() == 1)
    assert table.model().index(0, 0).data() == "General questions"
    click(qtbot, page, "monitor_evaluate_general")
    assert silent.asked(reading.PrepareEvaluation)[0].path == "general"


def test_while_another_run_trains_it_says_who_holds_the_device(open_run, make, app, home, qtbot):
    page = open_run(make(end="finished", steps=400))
    app.engine.train(home / "runs" / "other", "other-run")
    click(qtbot, page, "monitor_evaluate")
    assert words(page, "monitor_evaluate_why_not") == "other-run is training and holds the device."
    assert not found(page, "monitor_evaluate_file").isEnabled()
