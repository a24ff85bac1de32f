"""From settings to a run in training, and back where it was given up on the way."""

from __future__ import annotations

import pytest

from qlora_studio.memory.devices import ram_reading
from qlora_studio.protocol import commands, events, reading
from tests.state.reports import PREPARED
from tests.ui.example_runs import Example, make_run

READY = events.EngineReady(device="cpu", device_name="", memory_bytes=2, free_bytes=1, versions={})


@pytest.fixture
def own(app):
    """Settings of a run with a model of one's own."""
    app.draft.set("model.path", "/models/llama")
    return app.draft.config


def test_a_run_is_trained_under_the_name_it_was_given(app, silent, own, home):
    folder = make_run(home / "runs", Example(steps=0, checkpoints=False, tags=()))
    app.launcher.start(own, "My run")
    silent.answer(reading.PrepareRun, reading.RunPrepared, run=str(folder), **PREPARED)
    assert (app.engine.run, app.engine.run_name) == (folder, "My run")


def test_the_engine_gets_ready_while_the_data_is_read(app, silent, own, qtbot):
    app.launcher.start(own, "My run")
    qtbot.waitUntil(lambda: silent.said(commands.ExpectTraining) != [])
    silent.hear(READY)
    assert len(silent.asked(reading.PrepareRun)) == 1
    assert (app.engine.words, app.engine.training) == ("Ready, nothing is training", False)


def test_it_gets_ready_while_a_run_is_checked_too(app, silent, home, qtbot):
    app.launcher.resume(home / "runs" / "one", "one")
    qtbot.waitUntil(lambda: silent.said(commands.ExpectTraining) != [])
    assert len(silent.asked(reading.CheckResume)) == 1


def test_no_engine_starts_for_what_was_cancelled_at_once(app, silent, own, qtbot):
    app.launcher.start(own, "my-run")
    app.launcher.cancel()
    qtbot.wait(50)
    assert silent.engines == []


def test_an_engine_that_writes_a_reply_is_left_to_that(app, silent, own, qtbot):
    app.engine.command(commands.LoadModel, model="/models/llama")
    app.launcher.start(own, "my-run")
    qtbot.wait(50)
    assert silent.said(commands.ExpectTraining) == []


def test_what_is_cancelled_starts_nothing(app, silent, own, qtbot):
    app.launcher.start(own, "my-run")
    with qtbot.waitSignal(app.launcher.cancelled):
        app.launcher.cancel()
    assert silent.asked(reading.PrepareRun) == []
    assert (app.launcher.busy, app.engine.training) == (False, False)


def test_a_folder_that_was_made_in_the_moment_of_the_cancel_is_gone(app, silent, own, home, qtbot):
    folder = make_run(home / "runs", Example(steps=0, checkpoints=False, tags=()))
    for left in ("state.json", "metrics.jsonl", "samples.jsonl"):
        (folder / left).unlink(missing_ok=True)
    app.launcher.start(own, "my-run")
    (asked,) = silent.asked(reading.PrepareRun)
    app.launcher.cancel()
    app.reader._on_heard(reading.RunPrepared(id=asked.id, run=str(folder), **PREPARED))
    qtbot.waitUntil(lambda: list((home / "runs").iterdir()) == [])
    assert not app.engine.training


def test_a_run_that_trained_is_never_taken_for_one_that_was_given_up(app, silent, own, home, qtbot):  # R11
    folder = make_run(home / "runs", Example(steps=3))
    app.launcher.start(own, "my-run")
    (asked,) = silent.asked(reading.PrepareRun)
    app.launcher.cancel()
    app.reader._on_heard(reading.RunPrepared(id=asked.id, run=str(folder), **PREPARED))
    app.launcher._disk.close()
    assert folder.exists()


def test_unpacking_the_sample_ends_with_the_cancel(app, silent):
    app.launcher.start_sample_run()
    silent.hear(events.LoadingProgress(done=0, total=3, words="Unpacking the sample model"))
    app.launcher.cancel()
    assert silent.engines[-1].killed
    silent.engines[-1].end("killed by the system, memory?")
    assert (app.engine.words, app.engine.tone) == ("Ready, nothing is training", "ok")
    assert not app.sample_model.making


def test_unpacking_goes_on_where_another_page_waits_for_it_too(app, silent):
    app.sample_model.make()
    app.launcher.start_sample_run()
    app.launcher.cancel()
    assert not silent.engines[-1].killed
    assert app.sample_model.making


def test_once_files_are_written_unpacking_comes_to_its_end(app, silent):
    app.launcher.start_sample_run()
    silent.hear(events.LoadingProgress(done=2, total=3, words="Unpacking the sample model"))
    app.launcher.cancel()
    assert not silent.engines[-1].killed
    assert not app.launcher.busy


def test_after_a_cancel_the_sample_can_be_started_again(app, silent):
    app.launcher.start_sample_run()
    app.launcher.cancel()
    silent.engines[-1].end()
    app.launcher.start_sample_run()
    assert len(silent.said(commands.MakeSampleModel)) == 2


def test_the_reader_is_told_all_the_memory_there_is_to_refuse_what_exceeds_it(app, silent, own):
    app.launcher.start(own, "my-run")
    (asked,) = silent.asked(reading.PrepareRun)
    assert asked.device_total_bytes == ram_reading().total_bytes >= asked.device_memory_bytes > 0
