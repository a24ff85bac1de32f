"""The arena of the window: answers by base and adapters, votes that are kept, and the standing."""

from __future__ import annotations

import pytest

from qlora_studio.config import places
from qlora_studio.protocol import commands, events, reading
from qlora_studio.runs.arena import TIE, read_arena
from tests.state.reports import CHECKED_ADAPTER, chat_encoded, model_report
from tests.ui.example_runs import Example, make_run

MODEL = "/models/tiny"


@pytest.fixture
def run(app):
    example = Example(name="support", model="tiny", steps=20, evaluate_every=10, end="finished")
    return make_run(app.preferences.runs_folder, example)


@pytest.fixture
def arena(app, run, qtbot):
    """With the run's adapter chosen in the chat."""
    app.chat.refresh(run)
    qtbot.waitUntil(lambda: app.chat.tuned is not None)
    return app.arena


def load_asked(silent):
    """What was asked for is there. Returns: the command."""
    loading = silent.last_said(commands.LoadModel)
    silent.hear(
        events.ModelLoaded(
            model=loading.model, parameters=1, trainable_parameters=0, seconds=1.0, device_name="CPU",
            compute_dtype="float32",
        )
    )  # fmt: skip
    return loading


def begin(silent, *prompts):
    """The prompts are read, model and adapter sound and loaded."""
    silent.answer(reading.ReadPrompts, reading.PromptsRead, prompts=prompts)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    load_asked(silent)


def answer(silent, text, ids=12):
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=ids))
    silent.hear(
        events.GenerationFinished(
            id=silent.last_said(commands.Generate).id, reply=text, tokens=3, tokens_per_second=13.0,
            first_token_seconds=0.2, ended="end",
        )
    )  # fmt: skip


def test_base_and_adapter_answer_each_prompt_and_all_is_kept(arena, app, silent, run):
    arena.begin("/data/prompts.txt")
    assert silent.asked(reading.ReadPrompts)[0].path == "/data/prompts.txt"
    begin(silent, "Why?", "How?")
    asked = silent.asked(reading.EncodeChat)[0]
    assert (asked.messages[0].content, asked.run, asked.trained) == ("Why?", "", True)
    answer(silent, "Plain.")
    assert silent.last_said(commands.Generate).adapter is None
    assert silent.asked(reading.EncodeChat)[0].run == str(run)
    answer(silent, "Tuned.")
    assert silent.last_said(commands.Generate).adapter == str(run / "adapter")
    assert arena.pair is not None and arena.pair.prompt == 0  # to be judged while the next ones are written
    answer(silent, "Plain again.")
    answer(silent, "Tuned again.")
    assert not arena.busy
    arena.wait()
    kept = read_arena(arena.path)
    assert arena.path.parent == places.arenas_folder()
    assert kept.answers == (("Plain.", "Tuned."), ("Plain again.", "Tuned again."))


def test_each_answer_names_its_own_base_whatever_else_was_loaded_in_between(arena, silent):
    arena.begin("/data/prompts.txt")
    begin(silent, "Why?")
    own = silent.last_said(commands.LoadModel).id
    answer(silent, "Plain.")
    silent.hear(
        events.ModelLoaded(
            model="/models/of-the-endpoint", parameters=1, trainable_parameters=0, seconds=1.0,
            device_name="CPU", compute_dtype="float32",
        )
    )  # fmt: skip
    answer(silent, "Tuned.")
    assert [said.base for said in silent.said(commands.Generate)] == [own, own]
    arena.ask_judge(MODEL)
    judge = load_asked(silent)
    answer(silent, "[[B]]")
    assert judge.id != own
    assert silent.last_said(commands.Generate).base == judge.id


def test_an_engine_that_ends_between_two_answers_is_followed_by_one_that_loads_the_model(arena, app, silent):
    arena.begin("/data/prompts.txt")
    begin(silent, "Why?")
    answer(silent, "Plain.")
    app.engine.release()
    silent.engines[-1].end()
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    assert [type(command) for command in silent.engines[1].said] == [commands.LoadModel]
    loading = load_asked(silent)
    answer(silent, "Tuned.")
    assert silent.last_said(commands.Generate).base == loading.id
    assert arena.arena.answers == (("Plain.", "Tuned."),)
    assert not arena.busy


def test_votes_are_kept_taken_back_and_counted(arena, silent, qtbot):
    arena.begin("/data/prompts.txt")
    begin(silent, "Why?", "How?")
    for text in ("Plain.", "Tuned.", "Plain again.", "Tuned again."):
        answer(silent, text)
    arena.vote(1)
    arena.vote(TIE)
    assert arena.pair is None
    arena.take_back()
    assert arena.pair is not None
    with qtbot.waitSignal(arena.changed, check_params_cb=lambda: arena.standing is not None, timeout=10_000):
        arena.count()
    assert [round(rating.elo) for rating in arena.standing.ratings] == [984, 1016]
    arena.wait()
    assert [vote.winner for vote in read_arena(arena.path).votes] == [1]


def test_a_prompt_longer_than_the_context_has_no_answer_and_the_rest_goes_on(arena, silent):
    arena.begin("/data/prompts.txt")
    begin(silent, "Long", "Short")
    for _ in range(2):
        silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=9_000))
    assert arena.arena.answers[0] == ("", "")
    assert silent.asked(reading.EncodeChat)[0].messages[0].content == "Short"


def test_stopped_what_is_answered_stays_and_the_rest_is_written_later(arena, silent):
    arena.begin("/data/prompts.txt")
    begin(silent, "Why?")
    answer(silent, "Plain.")
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    writing = silent.last_said(commands.Generate)
    arena.stop()
    assert silent.last_said(commands.StopGenerating).id == writing.id
    assert arena.answered == (1, 2)
    arena.go_on()
    assert silent.said(commands.LoadModel)[1:]


def test_an_engine_that_ends_is_told_and_nothing_is_lost(arena, silent):
    arena.begin("/data/prompts.txt")
    begin(silent, "Why?")
    answer(silent, "Plain.")
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    silent.engines[-1].end("signal 9")
    assert "signal 9" in arena.problem.message
    assert arena.answered == (1, 2)


def test_the_newest_arena_is_there_again_in_the_next_window(arena, app, silent, qtbot):
    arena.begin("/data/prompts.txt")
    begin(silent, "Why?")
    arena.wait()
    kept, path = arena.arena, arena.path
    del app.__dict__["arena"]
    app.arena.look()
    qtbot.waitUntil(lambda: app.arena.arena == kept)
    assert app.arena.path == path


def test_without_a_tuned_model_there_is_nothing_to_compare(app):
    assert app.arena.why_no_start.startswith("Choose a tuned model first")
    app.arena.begin("/data/prompts.txt")
    assert not app.arena.busy


def test_a_judge_is_asked_about_each_pair_both_ways_round(arena, silent):
    arena.begin("/data/prompts.txt")
    begin(silent, "Why?")
    answer(silent, "Plain.")
    answer(silent, "Tuned.")
    arena.ask_judge("/models/judge")
    assert silent.asked(reading.CheckModel)[0].folder == "/models/judge"
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report("/models/judge"))
    assert load_asked(silent).model == "/models/judge"
    first = silent.asked(reading.EncodeChat)[0]
    assert first.model == "/models/judge"
    assert first.messages[0].content.index("Plain.") < first.messages[0].content.index("Tuned.")
    assert arena.progress == (0, 1)
    answer(silent, "[[B]]")
    assert (
        silent.last_said(commands.Generate).adapter,
        silent.last_said(commands.Generate).sampling.greedy,
    ) == (
        None,
        True,
    )
    second = silent.asked(reading.EncodeChat)[0].messages[0].content
    assert second.index("Tuned.") < second.index("Plain.")
    answer(silent, "[[A]]")
    assert not arena.busy
    (judgement,) = arena.arena.judgements
    assert (judgement.forwards, judgement.backwards) == (1, 1)
    arena.wait()
    assert read_arena(arena.path) == arena.arena


def test_a_judge_that_was_stopped_goes_on_where_it_was(arena, silent):
    arena.begin("/data/prompts.txt")
    begin(silent, "Why?", "How?")
    for text in ("Plain.", "Tuned.", "Plain again.", "Tuned again."):
        answer(silent, text)
    arena.ask_judge(MODEL)
    load_asked(silent)
    answer(silent, "[[A]]")
    answer(silent, "[[A]]")
    arena.stop()
    assert not arena.busy
    assert len(arena.arena.judgements) == 1
    arena.ask_judge(MODEL)
    assert arena.progress == (1, 2)
    assert len(arena.arena.judgements) == 1


def test_what_a_judge_said_stays_until_another_one_has_judged(arena, silent):
    arena.begin("/data/prompts.txt")
    begin(silent, "Why?")
    for text in ("Plain.", "Tuned."):
        answer(silent, text)
    arena.ask_judge(MODEL)
    load_asked(silent)
    answer(silent, "[[A]]")
    answer(silent, "[[A]]")
    arena.ask_judge("/models/other")
    assert arena.progress == (0, 1)
    silent.refuse(reading.CheckModel, "There is no config.json.")
    assert arena.problem.message == "There is no config.json."
    assert (arena.arena.judge, len(arena.arena.judgements)) == (MODEL, 1)


def test_while_a_run_trains_no_judge_is_asked(arena, app, silent, run):
    arena.begin("/data/prompts.txt")
    begin(silent, "Why?")
    answer(silent, "Plain.")
    answer(silent, "Tuned.")
    app.engine.train(run)
    arena.ask_judge("/models/judge")
    assert not arena.busy
    assert "is training" in arena.why_no_judge


def test_a_model_of_which_all_weights_were_trained_has_no_arena(app, qtbot):
    full = {"training.finetuning": "full", "model.quantization": "none"}
    made = Example(name="full", steps=20, evaluate_every=10, end="finished", changes=full)
    app.chat.refresh(make_run(app.preferences.runs_folder, made))
    qtbot.waitUntil(lambda: app.chat.own_model is not None)
    assert app.arena.why_no_start.startswith("All weights of this model were trained")
