"""The one engine as the window knows it: in words, by turns, and never two at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_studio.protocol import commands, events
from qlora_studio.protocol.events import Problem
from qlora_studio.state import engine as engine_module
from qlora_studio.state.engine import SILENCE_S, Doing, EngineState
from tests.ui.silent import silence

RUN = Path("/runs/gsm8k")


@pytest.fixture
def silent(monkeypatch):
    return silence(monkeypatch)


@pytest.fixture
def engine(silent, qtbot):
    state = EngineState()
    yield state
    state._heart.stop()


@pytest.fixture
def training(engine, silent):
    engine.train(RUN)
    silent.hear(_started())
    return engine


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [engine_module.time.monotonic()]
    monkeypatch.setattr(engine_module.time, "monotonic", lambda: now[0])
    return now


def test_before_anything_is_asked_there_is_no_engine(engine, silent):
    assert silent.engines == []
    assert (engine.words, engine.tone) == ("Ready, nothing is training", "ok")


@pytest.mark.parametrize(
    ("event", "doing", "words"),
    [
        (
            events.LoadingProgress(done=143, total=291, words="Loading Llama, quantizing"),
            Doing.LOADING,
            "Loading Llama, quantizing: 143 of 291",
        ),
        (events.EvaluationProgress(step=5, done=340, total=911), Doing.EVALUATING, "Evaluating 340 of 911"),
        (
            events.SampleReady(step=5, index=0, prompt="p", reply="r", tokens=1, time=0.0),
            Doing.SAMPLING,
            "Answering sample prompts",
        ),
        (events.Saving(step=2251), Doing.SAVING, "Saving step 2,251"),
        (
            events.CheckpointSaved(step=2200, path="p", time=0.0),
            Doing.TRAINING,
            "Training · last checkpoint step 2,200, just now, verified",
        ),
        (
            events.ExportProgress(id=1, words="Writing the model", done=2_100_000_000, total=4_900_000_000),
            Doing.EXPORTING,
            "Writing the model: 2.1 of 4.9 GB",
        ),
        (
            events.RunFailed(error=Problem("The loss was not a number 3 times."), run="r"),
            Doing.NOTHING,
            "The loss was not a number 3 times.",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, events.Event) else "",
)
def test_what_the_engine_does_is_said_in_words(training, silent, event, doing, words):
    silent.hear(event)
    assert (training.doing, training.words) == (doing, words)


def test_the_age_of_the_last_checkpoint_is_told(training, silent, clock):
    silent.hear(events.CheckpointSaved(step=20, path="p", time=0.0))
    clock[0] += 61
    silent.hear(_step(21))
    assert "step 20, 1 min ago" in training.words


@pytest.mark.parametrize(
    "event",
    [
        events.SampleModelReady(id=1, folder="f"),
        events.CommandFailed(id=1, error=Problem("no")),
        events.WeightsScanned(id=1, tensors=1, bad=()),
    ],
    ids=lambda event: type(event).__name__,
)
def test_after_a_command_the_engine_rests(engine, silent, event):
    engine.command(commands.MakeSampleModel)
    assert engine.doing is Doing.LOADING
    silent.hear(event)
    assert engine.doing is Doing.NOTHING


def test_each_command_has_a_number_of_its_own(engine, silent):
    ids = [engine.command(commands.MakeSampleModel) for _ in range(3)]
    assert [command.id for command in silent.said(commands.MakeSampleModel)] == ids
    assert len(set(ids)) == 3
    assert len(silent.engines) == 1


def test_a_run_holds_the_device_until_it_ends(training, silent):
    silent.hear(_step(3))
    assert training.training
    assert (training.step, training.total_steps) == (3, 40)
    silent.hear(events.RunFinished(run=str(RUN), step=40, adapter="a", state="finished"))
    assert not training.training
    assert training.words == "Ready, nothing is training"


def test_stopping_is_said_until_the_run_ended(training, silent):  # R4
    training.stop_training()
    silent.hear(_step(4))
    assert training.doing is Doing.STOPPING
    assert silent.said(commands.StopTraining)


def test_a_paused_run_frees_the_device(training, silent):
    training.pause_training()
    silent.hear(events.RunFinished(run=str(RUN), step=4, adapter=None, state="paused"))
    assert silent.engines[0].hung_up
    silent.engines[0].end()
    assert not training.training
    assert (training.words, training.tone) == ("Paused at step 4, the device is free", "warn")


def test_what_is_asked_of_an_engine_that_is_ending_is_done_by_the_next_one(training, silent):
    training.pause_training()
    silent.hear(events.RunFinished(run=str(RUN), step=4, adapter=None, state="paused"))
    training.train(RUN)
    assert len(silent.engines) == 1
    silent.engines[0].end()
    assert len(silent.engines) == 2
    assert silent.engines[1].said == [commands.Train(run=str(RUN))]
    assert training.run == RUN


def test_an_engine_that_dies_frees_the_device_and_says_why(training, silent, qtbot):  # R7
    with qtbot.waitSignal(training.ended) as ended:
        silent.engines[0].end("killed by the system, memory?")
    assert ended.args == ["killed by the system, memory?"]
    assert not training.training
    assert (training.words, training.tone) == ("The engine ended (killed by the system, memory?).", "bad")


def test_after_a_death_the_next_command_starts_a_new_engine(training, silent):
    silent.engines[0].end("SIGABRT")
    training.command(commands.MakeSampleModel)
    assert len(silent.engines) == 2


def test_thirty_seconds_of_silence_are_told_and_forgotten_with_the_next_word(training, silent, clock):
    before = training.words
    clock[0] += SILENCE_S + 4
    training._on_heartbeat()
    assert (training.words, training.tone) == ("The engine has not answered for 34 s.", "warn")
    silent.hear(events.Alive())
    assert (training.words, training.tone) == (before, "accent")
    assert training.silent_s == 0.0


def test_the_engine_hears_that_the_window_lives(training, silent):  # R7
    training._on_heartbeat()
    assert silent.said(commands.Heartbeat)


@pytest.mark.fault(4)
def test_an_engine_that_does_not_answer_can_be_killed(training, silent):  # fault 4
    training.kill()
    assert silent.engines[0].killed


def test_the_end_of_the_window_is_waited_for_and_then_forced(training, silent, monkeypatch):  # R7
    monkeypatch.setattr(silent.engines[0], "wait", lambda milliseconds=None: False)
    training.close(wait_ms=1)
    assert silent.engines[0].hung_up
    assert silent.engines[0].killed


def _started():
    return events.RunStarted(run=str(RUN), step=0, total_steps=40, resumed=False, time=0.0)


def _step(step):
    return events.StepFinished(
        step=step,
        loss=1.0,
        learning_rate=1e-3,
        grad_norm=0.1,
        tokens=10,
        learned_tokens=5,
        tokens_per_second=1.0,
        learned_tokens_per_second=1.0,
        rows=(1,),
        memory={},
        epoch=0.1,
        elapsed_s=1.0,
        time=0.0,
    )


@pytest.mark.fault(17)
@pytest.mark.parametrize("cause", ["out_of_memory", "device"])
def test_after_out_of_memory_the_process_ends_and_what_is_asked_next_goes_to_another(  # R14
    training, silent, cause
):
    silent.hear(events.RunFailed(error=Problem("It failed."), run=str(RUN), cause=cause))
    assert silent.engines[0].hung_up
    training.train(RUN, ways=("half_rows",))
    assert silent.last_said(commands.Train).ways == ()  # it waits for the process to be gone
    silent.engines[0].end()
    assert silent.engines[1].said == [commands.Train(run=str(RUN), ways=("half_rows",))]


@pytest.mark.fault(17)
@pytest.mark.parametrize("short", [True, False])
def test_a_chat_that_runs_out_of_memory_ends_the_process_too(engine, silent, short):
    reply = engine.command(commands.Generate, prompt_ids=(1,))
    silent.hear(events.CommandFailed(id=reply, error=Problem("No."), device_spoiled=short))
    assert silent.engines[0].hung_up == short


@pytest.fixture
def failed(engine):
    """The ids of the commands that failed, as they are heard."""
    ids = []
    engine.heard.connect(
        lambda event: ids.append(event.id) if isinstance(event, events.CommandFailed) else None
    )
    return ids


@pytest.mark.fault(17)
def test_what_stood_behind_it_is_told_to_have_failed_and_what_came_after_it_is_done(engine, silent, failed):
    reply = engine.command(commands.Generate, prompt_ids=(1,))
    behind = engine.command(commands.Evaluate, run="r", prepared="p")
    silent.hear(events.CommandFailed(id=reply, error=Problem("No."), device_spoiled=True))
    after = engine.command(commands.Evaluate, run="r", prepared="p")
    silent.engines[0].end()
    assert failed == [reply, behind]
    assert [command.id for command in silent.engines[1].said] == [after]


def test_what_is_asked_anew_comes_after_what_waits_for_the_next_engine(engine, silent):
    reply = engine.command(commands.Generate, prompt_ids=(1,))
    behind = engine.command(commands.Evaluate, run="r", prepared="p")
    silent.hear(events.CommandFailed(id=reply, error=Problem("No."), device_spoiled=True))
    after = engine.command(commands.MakeSampleModel)
    anew = []
    engine.heard.connect(lambda event: anew.append(engine.command(commands.Evaluate, run="r", prepared="p")))
    silent.engines[0].end()
    assert behind not in anew
    assert [command.id for command in silent.engines[1].said] == [after, *anew]


def test_after_a_pause_nothing_that_was_done_is_told_to_have_failed(engine, silent, failed):
    engine.command(commands.LoadModel, model="m", quantization="nf4", double_quant=True, compute_dtype="auto")
    silent.hear(_loaded())
    _, replies = engine.generate([{"prompt_ids": (1,)}, {"prompt_ids": (2,)}])
    for reply in replies:
        silent.hear(_reply_finished(reply))
    engine.train(RUN)
    silent.hear(_loaded())
    silent.hear(events.RunFinished(run=str(RUN), step=4, adapter=None, state="paused"))
    silent.engines[0].end()
    assert failed == []


def test_replies_side_by_side_are_answered_with_the_last_of_them(engine, silent, failed):
    together, replies = engine.generate([{"prompt_ids": (1,)}, {"prompt_ids": (2,)}])
    silent.hear(_reply_finished(replies[0]))
    engine.release()
    silent.engines[0].end()
    assert failed == [together]


def test_with_its_process_the_engine_forgets_its_models_once_it_is_released(engine, silent, qtbot):
    engine.command(commands.Generate, prompt_ids=(1,))
    with qtbot.waitSignal(engine.forgot):
        engine.release()
    with qtbot.waitSignal(engine.forgot):
        silent.engines[0].end()


def _loaded():
    return events.ModelLoaded(
        model="m", parameters=1, trainable_parameters=0, seconds=1.0, device_name="CPU",
        compute_dtype="float32",
    )  # fmt: skip


def _reply_finished(reply):
    return events.GenerationFinished(
        id=reply, reply="", tokens=0, tokens_per_second=0.0, first_token_seconds=0.0, ended="stopped"
    )


def test_what_went_wrong_still_stands_when_the_process_is_gone(training, silent):
    silent.hear(events.RunFailed(error=Problem("Out of memory."), run=str(RUN), cause="out_of_memory"))
    silent.engines[0].end()
    assert training.words == "Out of memory."
