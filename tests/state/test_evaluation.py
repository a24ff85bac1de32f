"""An evaluation asked for in the window: file, engine, and what the run keeps of it."""

from __future__ import annotations

import pytest

from qlora_studio.protocol import commands, events, reading
from qlora_studio.runs.evaluations import EVALUATIONS_FILE, Evaluation, add_evaluation, read_evaluations
from qlora_studio.runs.folder import open_run
from qlora_studio.ui.pages.monitor_evaluations import evaluation_words
from tests.ui.example_runs import Example, make_run

COMPARED = events.BaseComparison(
    kind="numbers", questions=64, base_right=4, adapter_right=9, gained=6, lost=1, low=0.02, high=0.14,
    p_value=0.125, changed=(),
)  # fmt: skip


def report(command_id: int) -> events.EvaluationReport:
    return events.EvaluationReport(
        id=command_id, step=20, loss=1.25, base_loss=1.75, perplexity=3.49, accuracy=9 / 64, accuracy_rows=64,
        rows=200, learned_tokens=9_000, comparison=COMPARED,
    )  # fmt: skip


@pytest.fixture
def run(home):
    return open_run(make_run(home / "runs", Example(steps=20, evaluate_every=10, end="finished")))


@pytest.fixture
def evaluation(app, run, qtbot):
    with qtbot.waitSignal(app.evaluation.changed):
        app.evaluation.look_at(run)
    return app.evaluation


def test_a_file_is_read_asked_and_kept_with_the_run(evaluation, run, silent, qtbot):
    evaluation.start("/data/test.jsonl")
    assert silent.asked(reading.PrepareEvaluation)[0].path == "/data/test.jsonl"
    notes = ("1 chat is longer than 256 tokens and left out.",)
    prepared = {"prepared": "/cache/rows", "rows": 200, "notes": notes}
    silent.answer(reading.PrepareEvaluation, reading.EvaluationPrepared, **prepared)
    command = silent.last_said(commands.Evaluate)
    assert (command.run, command.prepared, command.with_base) == (str(run.folder), "/cache/rows", True)
    silent.hear(events.EvaluationProgress(step=20, done=1, total=200))
    assert evaluation.words == "Measuring the trained model"
    silent.hear(events.EvaluationProgress(step=20, done=3, total=200, words="Measuring the base model"))
    assert (evaluation.words, evaluation.done, evaluation.total) == ("Measuring the base model", 3, 200)
    with qtbot.waitSignal(evaluation.finished) as finished:
        silent.hear(report(command.id))
    kept = read_evaluations(run.folder).found
    assert kept == evaluation.found == (finished.args[0],)
    assert evaluation_words(kept[0]).startswith(notes[0])
    assert (kept[0].step, kept[0].base_loss, kept[0].base_accuracy, kept[0].gained) == (20, 1.75, 4 / 64, 6)
    assert not evaluation.busy


def test_what_was_found_before_is_read(app, run, qtbot):
    found = Evaluation(time=1.0, step=20, file="/data/a.jsonl", rows=3, loss=1.0)
    add_evaluation(run.folder, found)
    app.evaluation.look_at(run)
    qtbot.waitUntil(lambda: app.evaluation.found == (found,))


def test_what_can_not_be_read_is_said_of_its_own_run_alone(app, evaluation, run, home, qtbot):
    (run.folder / EVALUATIONS_FILE).mkdir()
    evaluation.look_at(run)
    qtbot.waitUntil(lambda: evaluation.problem_here is not None)
    evaluation.look_at(open_run(make_run(home / "runs", Example(name="other", steps=20, end="finished"))))
    assert evaluation.problem_here is None


def test_stopped_while_the_engine_asks_nothing_is_kept(evaluation, run, silent):
    evaluation.start("/data/test.jsonl")
    silent.answer(reading.PrepareEvaluation, reading.EvaluationPrepared, prepared="/cache/rows", rows=200)
    evaluation.stop()
    command = silent.last_said(commands.Evaluate)
    assert silent.last_said(commands.StopEvaluating).id == command.id
    assert evaluation.busy
    silent.hear(events.CommandFailed(id=command.id, error=events.Problem("The evaluation was stopped.")))
    assert not evaluation.busy
    assert evaluation.problem is None
    assert read_evaluations(run.folder).found == ()


def test_stopped_while_the_file_is_read_the_engine_is_told_nothing(evaluation, silent):
    evaluation.start("/data/test.jsonl")
    evaluation.stop()
    assert not evaluation.busy
    assert not silent.said(commands.Evaluate)
    assert not silent.asked(reading.PrepareEvaluation)


def test_a_file_in_another_encoding_is_read_once_that_is_chosen(evaluation, silent):
    evaluation.start("/data/old.csv")
    silent.refuse(reading.PrepareEvaluation, "Line 2 is not UTF-8.", likely_encoding="windows-1252")
    assert (evaluation.problem.message, evaluation.likely_encoding) == (
        "Line 2 is not UTF-8.",
        "windows-1252",
    )
    evaluation.start(evaluation.file, evaluation.likely_encoding)
    assert silent.asked(reading.PrepareEvaluation)[0].encoding == "windows-1252"
    assert evaluation.problem is None


def test_an_engine_that_ends_is_a_problem_and_the_next_evaluation_works(evaluation, silent):
    evaluation.start("/data/test.jsonl")
    silent.answer(reading.PrepareEvaluation, reading.EvaluationPrepared, prepared="/cache/rows", rows=200)
    silent.engines[-1].end("signal 9")
    assert "signal 9" in evaluation.problem.message
    evaluation.start("/data/test.jsonl")
    assert silent.asked(reading.PrepareEvaluation)


@pytest.mark.fault(17)
@pytest.mark.parametrize("stopped", [False, True])
def test_behind_a_reply_that_runs_out_of_memory_it_ends_and_the_device_is_free(
    app, evaluation, silent, stopped
):
    reply = app.engine.command(commands.Generate, prompt_ids=(1,))
    evaluation.start("/data/test.jsonl")
    silent.answer(reading.PrepareEvaluation, reading.EvaluationPrepared, prepared="/cache/rows", rows=200)
    if stopped:
        evaluation.stop()
    silent.hear(events.CommandFailed(id=reply, error=events.Problem("No memory."), device_spoiled=True))
    assert evaluation.busy
    silent.engines[0].end()
    assert not evaluation.busy
    assert (evaluation.problem is None) == stopped
    assert app.engine.held == ""
    evaluation.start("/data/test.jsonl")
    silent.answer(reading.PrepareEvaluation, reading.EvaluationPrepared, prepared="/cache/rows", rows=200)
    assert [type(command) for command in silent.engines[1].said] == [commands.Evaluate]


def test_while_a_run_trains_it_holds_the_device(app, evaluation, home, silent):
    app.engine.train(home / "other", "other-run")
    assert evaluation.why_not == "other-run is training and holds the device."
    evaluation.start("/data/test.jsonl")
    assert not silent.asked(reading.PrepareEvaluation)


def test_no_run_goes_on_while_an_evaluation_holds_the_device(app, evaluation, run, silent, qtbot):
    make_run(app.preferences.runs_folder, Example(name="stopped", steps=20, end="stopped"))
    app.runs.refresh()
    qtbot.waitUntil(lambda: len(app.runs.table.runs) == 2)
    stopped = next(one for one in app.runs.table.runs if one.name == "stopped")
    assert app.runs.why_not_resume(stopped) == ""
    evaluation.start("/data/test.jsonl")
    assert app.runs.why_not_resume(stopped) == "An evaluation is on its way and holds the device."
    assert app.export.waits_for == app.engine.held
    evaluation.stop()
    assert app.runs.why_not_resume(stopped) == ""


def test_a_run_without_an_adapter_can_not_be_asked(app, home):
    run = open_run(make_run(home / "runs", Example(steps=0, end="paused", checkpoints=False)))
    app.evaluation.look_at(run)
    assert app.evaluation.why_not == "This run has no adapter yet."


@pytest.mark.parametrize(
    ("end", "why_not"),
    [
        ("finished", ""),
        ("paused", "This run has no model yet: it is written when it finishes or is stopped."),
    ],
)
def test_of_all_weights_only_an_ended_run_has_a_model_to_ask(app, home, end, why_not):
    full = {"training.finetuning": "full", "model.quantization": "none"}
    run = open_run(make_run(home / "runs", Example(steps=20, evaluate_every=10, end=end, changes=full)))
    app.evaluation.look_at(run)
    assert app.evaluation.why_not == why_not
