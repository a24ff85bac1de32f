"""A chat: each side in turn from one loaded base, and every end in the reply's place."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from qlora_studio.config import places
from qlora_studio.config.run_config import SAMPLE, SamplePrompt
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.conversations import read_conversation
from qlora_studio.state.chat_turns import LEFT, RIGHT, Writing
from tests.own_bin import use_own_bin
from tests.state.reports import CHECKED_ADAPTER, chat_encoded, model_report
from tests.ui.example_runs import Example, make_run

MODEL = "/models/tiny"


@pytest.fixture
def run(app):
    example = Example(
        name="support",
        model="tiny",
        steps=20,
        evaluate_every=10,
        end="finished",
        changes={"model.path": MODEL, "model.quantization": "fp4"},
    )
    return make_run(app.preferences.runs_folder, example)


@pytest.fixture
def chat(app, run, qtbot):
    """With the run's adapter on the right."""
    app.chat.refresh(run)
    qtbot.waitUntil(lambda: app.chat.tuned is not None)
    return app.chat


@pytest.fixture
def base(app):
    """Without an adapter."""
    app.chat.choose_model(MODEL)
    return app.chat


def test_without_an_adapter_the_base_answers_alone(base, silent):
    base.send("Hello")
    _load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    asked = silent.last_said(commands.Generate)
    assert (asked.prompt_ids, asked.stop_ids, asked.adapter) == (tuple(range(12)), (2,), None)
    assert len(base.turns[0].replies) == 1


def test_nothing_of_a_model_is_loaded_before_the_reader_found_it_sound(chat, silent):  # S2, S5
    chat.send("Hello")
    assert not silent.engines
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    loading = silent.last_said(commands.LoadModel)
    assert (loading.model, loading.quantization) == (MODEL, "fp4")
    _loaded(silent)
    _reply(silent, "Base.")
    assert silent.asked(reading.CheckAdapter)[0].base == MODEL
    assert len(silent.said(commands.Generate)) == 1


def test_both_sides_answer_in_turn_from_one_base(chat, silent, run):
    chat.send("Hello")
    _load(silent)
    _reply(silent, "I am the base.")
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    _reply(silent, "I am tuned.")
    turn = chat.turns[0]
    assert [turn.reply(side).text for side in (LEFT, RIGHT)] == ["I am the base.", "I am tuned."]
    assert [asked.adapter for asked in silent.said(commands.Generate)] == [None, str(run / "adapter")]
    assert len(silent.said(commands.LoadModel)) == 1
    assert not chat.busy


def test_what_was_checked_and_loaded_is_not_asked_for_again(chat, silent):
    _talk(chat, silent, "Hello", "Hi.", "Hi!")
    chat.send("And now?")
    assert not silent.asked(reading.CheckModel)
    _reply(silent, "Base.")
    _reply(silent, "Tuned.")
    assert len(silent.said(commands.LoadModel)) == 1


def test_each_side_remembers_what_it_said_itself(chat, silent):
    chat.system = "Be brief."
    _talk(chat, silent, "Hello", "I am the base.", "I am tuned.")
    chat.send("And now?")
    asked = silent.asked(reading.EncodeChat)[0]
    assert [(message.role, message.content) for message in asked.messages] == [
        ("system", "Be brief."),
        ("user", "Hello"),
        ("assistant", "I am the base."),
        ("user", "And now?"),
    ]


def test_words_arrive_as_they_are_written(base, silent, qtbot):
    base.send("Hello")
    _load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    asked = silent.last_said(commands.Generate)
    reply = base.turns[0].reply(LEFT)
    with qtbot.waitSignal(base.grown):
        silent.hear(events.TextGenerated(id=asked.id, text="Hel", tokens=1))
    silent.hear(events.TextGenerated(id=asked.id, text="lo", tokens=2))
    silent.hear(events.TextGenerated(id=asked.id + 50, text="of another", tokens=9))
    assert (reply.state, reply.text, reply.tokens) == (Writing.WRITING, "Hello", 2)
    assert (base.context_used, base.context_room) == (12, 8192)


def test_stop_ends_the_reply_in_hand_and_begins_no_other(chat, silent):
    chat.send("Hello")
    _load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    chat.stop()
    asked = silent.last_said(commands.Generate)
    assert silent.last_said(commands.StopGenerating).id == asked.id
    silent.hear(_finished(asked.id, "Hel", ended="stopped"))
    assert [reply.ended for reply in chat.turns[0].replies] == ["stopped", "stopped"]
    assert not chat.busy
    assert len(silent.said(commands.Generate)) == 1


def test_stop_before_the_first_token_ends_at_once(base, silent):
    base.send("Hello")
    base.stop()
    assert base.turns[0].replies[0].state is Writing.DONE
    assert not base.busy


def test_what_is_loading_is_said_in_the_replys_place(base, silent):
    base.send("Hello")
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    silent.hear(events.LoadingProgress(done=143, total=272, words="Loading tiny"))
    assert base.turns[0].replies[0].words == "Loading tiny: 143 of 272"


def test_a_reply_names_the_base_that_it_was_encoded_for(base, silent):
    _talk_alone(base, silent)
    loading, writing = silent.last_said(commands.LoadModel), silent.last_said(commands.Generate)
    assert writing.base == loading.id


def test_where_an_evaluation_took_the_device_while_a_message_was_encoded_the_base_is_loaded_again(
    base, silent
):
    _talk_alone(base, silent)
    base.send("And now?")
    silent.hear(events.LoadingProgress(done=1, total=272, words="Loading another model"))
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    assert (len(silent.said(commands.LoadModel)), len(silent.said(commands.Generate))) == (2, 1)
    _loaded(silent)
    _reply(silent, "Hi again.")
    assert silent.last_said(commands.Generate).base == silent.last_said(commands.LoadModel).id
    assert base.turns[1].replies[0].text == "Hi again."


@pytest.mark.parametrize("failed_at", ["check", "load", "encode", "write", "engine"])
def test_every_failure_stands_in_the_replys_place_and_can_be_tried_again(chat, silent, failed_at):
    chat.send("Hello")
    words = _fail(silent, failed_at)
    reply, other = chat.turns[0].replies
    assert (reply.state, reply.problem.message) == (Writing.FAILED, words)
    assert (other.state, other.ended, other.problem) == (Writing.DONE, "stopped", None)
    assert not chat.busy
    chat.again(chat.turns[0], reply)
    assert chat.busy


def test_a_new_chat_is_answered_also_where_the_old_reply_fails(base, silent):
    base.send("Hello")
    _load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    writing = silent.last_said(commands.Generate)
    base.new_chat()
    base.send("What is rust?")
    silent.hear(events.CommandFailed(id=writing.id, error=Problem("Out of memory.")))
    assert base.turns[0].replies[0].state is Writing.LOADING
    _loaded(silent)
    _reply(silent, "Iron oxide.")
    assert base.turns[0].replies[0].text == "Iron oxide."


def test_after_the_engines_death_the_base_is_loaded_again(base, silent):
    _talk_alone(base, silent)
    silent.engines[0].end("SIGSEGV")
    base.send("Still there?")
    assert len(silent.engines) == 2
    assert len(silent.said(commands.LoadModel)) == 2


@pytest.mark.fault(17)
def test_after_an_evaluation_that_ran_out_of_memory_the_base_is_loaded_again(base, silent):
    _talk_alone(base, silent)
    evaluation = base._engine.command(commands.Evaluate, run="r", prepared="p")
    silent.hear(events.CommandFailed(id=evaluation, error=Problem("No memory."), device_spoiled=True))
    base.send("Still there?")
    silent.engines[0].end()
    assert [type(command) for command in silent.engines[1].said] == [commands.LoadModel]


def test_another_try_draws_another_answer(base, silent):
    _talk_alone(base, silent)
    base.send("Second")
    _reply(silent, "Two.")
    base.again(base.turns[0], base.turns[0].replies[0])
    _reply(silent, "Other.")
    seeds = [asked.sampling.seed for asked in silent.said(commands.Generate)]
    assert seeds == [0, 0, 1]
    assert [turn.text for turn in base.turns] == ["Hello"]


def test_the_sides_draw_alike_unless_asked_not_to(chat, silent):
    _talk(chat, silent, "Hello", "Hi.", "Hi!")
    chat.same_seed = False
    chat.send("And now?")
    _reply(silent, "Base.")
    _reply(silent, "Tuned.")
    seeds = [asked.sampling.seed for asked in silent.said(commands.Generate)]
    assert seeds[0] == seeds[1]
    assert seeds[2] != seeds[3]


def test_what_no_longer_fits_is_left_out_and_counted(base, silent):
    _talk_alone(base, silent)
    base.send("Second")
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=9_000))
    asked = silent.asked(reading.EncodeChat)[0]
    assert [message.content for message in asked.messages] == ["Second"]
    _reply(silent, "Two.")
    assert base.left_out == 1


@pytest.mark.parametrize(
    "ask",
    [lambda chat, turn: chat.again(turn, *turn.replies), lambda chat, turn: chat.change(turn, "Other")],
    ids=["again", "change"],
)
def test_an_earlier_message_is_answered_with_all_that_has_room_before_it(base, silent, ask):
    _talk_alone(base, silent)
    for text in ("Second", "Third"):
        base.send(text)
        _reply(silent, "Yes.")
    base.left_out = 2
    ask(base, base.turns[1])
    heard = [message.content for message in silent.asked(reading.EncodeChat)[0].messages]
    assert heard[:2] == ["Hello", "Hi."]
    assert base.left_out == 0


def test_the_context_counts_what_is_shown(base, silent):
    _talk_alone(base, silent)
    assert base.context_used == 15
    base.send("Second")
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=40))
    writing = silent.last_said(commands.Generate)
    base.new_chat()
    silent.hear(_finished(writing.id, "Half a", ended="stopped"))
    assert base.context_used == 0


def test_of_another_branch_no_context_is_told_before_it_is_known(base, silent):
    _talk_alone(base, silent)
    base.change(base.turns[0], "Good day")
    _reply(silent, "Good day to you.")
    assert base.context_used == 15
    base.show_message(base.branches.messages(base.turns[0])[0])
    assert base.context_used == 0


def test_a_training_run_holds_the_device(base, app, silent):
    app.engine.run = Path("/runs/other-run")
    base.send("Hello")
    reply = base.turns[0].replies[0]
    assert reply.problem.message == "other-run is training and holds the device."
    assert base.holder == "other-run"


def test_beside_a_run_it_says_what_a_chat_would_need_and_loads_nothing(base, app, silent):
    app.engine.run = Path("/runs/other-run")
    base.look_at_need()
    base.look_at_need()  # the page asks at each change
    assert base.waits_for == "other-run is training and holds the device."
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(base.model.path))
    assert "Beside it a chat needs about 0." in base.waits_for
    assert base.waits_for.endswith("GiB are free.")
    assert (silent.asked(reading.CheckModel), silent.said(commands.LoadModel)) == ([], [])


def test_after_a_run_the_base_is_loaded_again(base, silent, app):
    _talk_alone(base, silent)
    app.engine.run = Path("/runs/other-run")
    silent.hear(events.RunStarted(run="r", step=0, total_steps=1, resumed=False, time=0.0))
    silent.hear(events.RunFinished(run="r", step=1, adapter="a", state="finished"))
    base.send("Second")
    assert len(silent.said(commands.LoadModel)) == 2


def test_another_base_forgets_the_chat_and_is_loaded(chat, silent, app):
    _talk(chat, silent, "Hello", "Hi.", "Hi!")
    chat.choose_model("/models/other")
    assert (chat.turns, chat.tuned, chat.side_by_side) == ([], None, False)
    chat.send("Hello")
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report("/models/other"))
    assert silent.last_said(commands.LoadModel).model == "/models/other"


def test_a_merged_model_is_loaded_as_it_is_where_no_adapter_is_asked_for(base, silent):
    base.send("Hello")
    report = model_report(MODEL, merged=True)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=report)

    assert silent.last_said(commands.LoadModel).alone


def test_a_base_stays_where_it_is_while_adapters_come_and_go(chat, silent):
    _talk(chat, silent, "Hello", "Hi.", "Hi!")

    chat.choose_tuned(None)
    chat.send("And now?")

    assert [command.alone for command in silent.said(commands.LoadModel)] == [False]


def test_a_base_that_was_left_while_it_loaded_answers_nothing(base, silent):
    base.send("Hello")
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    base.choose_model("/models/other")
    base.send("Hello")
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report("/models/other"))
    _loaded(silent, MODEL)
    assert not silent.asked(reading.EncodeChat)
    _loaded(silent, "/models/other")
    assert silent.asked(reading.EncodeChat)[0].model == "/models/other"


def test_another_template_than_in_training_is_told(chat, silent, run):
    chat.tuned = replace(chat.tuned, template_sha256="b" * 64)
    _talk(chat, silent, "Hello", "Hi.", "Hi!")
    assert chat.template_differs
    chat.tuned = replace(chat.tuned, template_sha256=chat.template_sha256)
    assert not chat.template_differs


def test_another_base_knows_nothing_of_the_trained_template_that_was_used_before(chat, silent):
    _talk(chat, silent, "Hello", "Hi.", "Hi!")
    chat.template_difference = "-<|user|>\n+[user]"
    chat.set_use_trained(True)
    chat.choose_model("/models/other")
    assert (chat.use_trained, chat.template_difference) == (False, "")
    chat.send("Hello")
    _load(silent, "/models/other")
    assert not silent.asked(reading.EncodeChat)[0].trained


def test_the_runs_own_prompts_are_offered_first(chat):
    own = (SamplePrompt(prompt="Why is the sky green?"),)
    record = chat.tuned.run.record
    config = msgspec.structs.replace(record.config, samples=own)
    asked = replace(chat.tuned.run, record=msgspec.structs.replace(record, config=config))
    chat.tuned = replace(chat.tuned, run=asked)
    assert chat.prompts()[0] == "Why is the sky green?"
    assert len(chat.prompts()) == 3


def test_runs_without_a_model_folder_or_an_adapter_can_not_be_chosen(app, run, qtbot):
    runs = app.preferences.runs_folder
    make_run(runs, Example(name="failed", end="failed", steps=3))
    make_run(runs, Example(name="shape", end="finished", steps=3, changes={"model.path": "shape:llama-7b"}))
    app.chat.refresh(run)
    qtbot.waitUntil(lambda: bool(app.chat.choices))
    assert [tuned.name for tuned in app.chat.choices] == ["support"]


def test_the_sample_is_unpacked_before_the_first_word(app, silent):
    app.chat.choose_model(SAMPLE)
    app.chat.send("Hello")
    made = silent.last_said(commands.MakeSampleModel)
    places.sample_model_folder().mkdir(parents=True)
    (places.sample_model_folder() / "config.json").write_text("{}")
    silent.hear(events.SampleModelReady(id=made.id, folder="f"))
    assert silent.asked(reading.CheckModel)[0].folder == str(places.sample_model_folder())


def test_a_stop_word_ends_the_reply_before_it_and_stops_the_engine(base, silent):
    base.stop_words = ("Question:",)
    base.send("Hello")
    _load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    asked = silent.last_said(commands.Generate)
    silent.hear(events.TextGenerated(id=asked.id, text="Four. Quest", tokens=3))
    silent.hear(events.TextGenerated(id=asked.id, text="ion: And", tokens=5))
    assert silent.last_said(commands.StopGenerating).id == asked.id
    silent.hear(events.TextGenerated(id=asked.id, text=" five?", tokens=7))
    silent.hear(_finished(asked.id, "Four. Question: And five?", ended="stopped"))
    reply = base.turns[0].replies[0]
    assert (reply.text, reply.ended, reply.state) == ("Four.", "stop_word", Writing.DONE)


# More than two sides -----------------------------------------------------------------------------------


@pytest.fixture
def four(app, chat, qtbot):
    """Two more adapters of the same base answer too."""
    for name in ("second", "third", "fourth"):
        make_run(app.preferences.runs_folder, _example(name))
    make_run(app.preferences.runs_folder, _example("foreign", "/models/other"))
    chat.refresh()
    qtbot.waitUntil(lambda: len(chat.choices) == 5)
    for other in _named(chat, "second", "third"):
        chat.compare_with(other, True)
    return chat


def test_base_and_three_adapters_answer_from_one_base_with_one_seed(four, silent):
    _talk_with_four(four, silent)
    asked = silent.said(commands.Generate)
    folders = [str(item.folder) for item in (four.tuned, *four.also)]
    assert [command.adapter for command in asked] == [None, *folders]
    assert {command.sampling.seed for command in asked} == {0}
    assert len(silent.said(commands.LoadModel)) == 1
    assert [four.name_of(reply) for reply in four.turns[0].replies] == ["Base", "support", "second", "third"]
    assert [reply.text for reply in four.turns[0].replies] == ["Base.", "One.", "Two.", "Three."]


def test_no_more_than_three_adapters_and_none_of_another_base(four):
    for other in _named(four, "fourth", "foreign"):
        four.compare_with(other, True)
    assert [item.name for item in four.also] == ["second", "third"]


@pytest.mark.parametrize("left_out", [["second"], ["third"], ["second", "third"]])
def test_each_adapter_answers_again_as_itself_whichever_was_left_out(four, silent, left_out):
    _talk_with_four(four, silent)
    for other in _named(four, *left_out):
        four.compare_with(other, False)
    for side in (2, 3):
        reply = four.turns[0].reply(side)
        four.again(four.turns[0], reply)
        _reply(silent, "Once more.")
        assert silent.last_said(commands.Generate).adapter == reply.adapter


def test_an_adapter_that_moves_up_remembers_what_it_said_itself(four, silent):
    _talk_with_four(four, silent)
    four.compare_with(four.also[0], False)
    four.send("And now?")
    heard = []
    for _ in four.turns[-1].replies:
        heard.append(silent.asked(reading.EncodeChat)[0].messages[1].content)
        _reply(silent, "Yes.")
    assert heard == ["Base.", "One.", "Three."]


def test_four_sides_are_opened_again_as_they_were(four, silent, qtbot):
    for other in _named(four, "second", "third"):
        four.compare_with(other, False)
    for other in _named(four, "third", "second"):
        four.compare_with(other, True)
    four.send("Hello")
    four.stop()
    path = four.open_path
    names = [four.name_of(reply) for reply in four.turns[0].replies]
    four.new_chat()
    for other in list(four.also):
        four.compare_with(other, False)
    _open(four, path, qtbot)
    assert [item.name for item in four.also] == ["third", "second"]
    assert [four.name_of(reply) for reply in four.turns[0].replies] == names
    assert names == ["Base", "support", "third", "second"]


def test_a_chosen_adapter_does_not_answer_twice(four):
    four.choose_tuned(four.also[0])
    assert (four.tuned.name, [item.name for item in four.also]) == ("second", ["third"])
    four.choose_tuned(None)
    assert four.also == []


def test_on_a_card_all_sides_are_written_at_once(four, silent):
    together = _four_at_once(four, silent)
    folders = [str(item.folder) for item in (four.tuned, *four.also)]
    assert [asked.adapter for asked in together.replies] == [None, *folders]
    assert {asked.base for asked in together.replies} == {silent.last_said(commands.LoadModel).id}
    assert len({together.id, *(asked.id for asked in together.replies)}) == 5
    assert not silent.said(commands.Generate)

    replies = four.turns[0].replies
    for asked, text in zip(together.replies, "abcd", strict=True):
        silent.hear(events.TextGenerated(id=asked.id, text=text, tokens=1))
    assert [(reply.text, reply.state) for reply in replies] == [(text, Writing.WRITING) for text in "abcd"]
    for done, side in enumerate((2, 0, 3, 1)):
        assert four.busy and four._engine.words == "Chat, writing"
        silent.hear(_finished(together.replies[side].id, f"Side {side}."))
        assert [reply.state for reply in replies].count(Writing.DONE) == done + 1
    assert [reply.text for reply in replies] == [f"Side {side}." for side in range(4)]
    assert not four.busy
    assert four._engine.words == "Ready, nothing is training"


def test_stop_ends_all_sides_that_are_written_at_once(four, silent):
    together = _four_at_once(four, silent)
    silent.hear(_finished(together.replies[1].id, "Done."))
    four.stop()
    left = [asked.id for at, asked in enumerate(together.replies) if at != 1]
    assert [command.id for command in silent.said(commands.StopGenerating)] == left
    for reply_id in left:
        silent.hear(_finished(reply_id, "Half", ended="stopped"))
    assert [reply.ended for reply in four.turns[0].replies] == ["stopped", "end", "stopped", "stopped"]
    assert not four.busy


@pytest.mark.parametrize("ends", ["fails", "dies"])
def test_what_ends_replies_written_at_once_stands_in_the_place_of_each(four, silent, ends):
    together = _four_at_once(four, silent)
    silent.hear(_finished(together.replies[2].id, "Done."))
    if ends == "fails":
        silent.hear(events.CommandFailed(id=together.id, error=Problem("Out of memory.")))
    else:
        silent.engines[0].end("SIGSEGV")
    states = [reply.state for reply in four.turns[0].replies]
    assert states == [Writing.FAILED, Writing.FAILED, Writing.DONE, Writing.FAILED]
    assert all(reply.problem for reply in four.turns[0].replies if reply.state is Writing.FAILED)
    assert not four.busy
    four.again(four.turns[0], four.turns[0].replies[0])
    assert four.busy


def test_a_side_that_can_not_be_asked_leaves_those_beside_it_their_answer(chat, silent):
    chat.send("Hello")
    _load_on_card(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    assert not silent.said(commands.Generate)
    silent.refuse(reading.CheckAdapter, "It is for another base.")
    _reply(silent, "I am the base.")
    base, tuned = chat.turns[0].replies
    assert (base.text, base.state) == ("I am the base.", Writing.DONE)
    assert (tuned.problem.message, tuned.state) == ("It is for another base.", Writing.FAILED)
    assert not chat.busy


def test_stop_before_all_sides_are_ready_begins_none(chat, silent):
    chat.send("Hello")
    _load_on_card(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    chat.stop()
    assert [reply.ended for reply in chat.turns[0].replies] == ["stopped", "stopped"]
    assert not chat.busy
    assert not silent.said(commands.Generate) and not silent.said(commands.GenerateTogether)


def test_long_chats_are_answered_one_after_the_other_on_a_card_too(chat, silent):
    chat.send("Hello")
    _load_on_card(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=8193, context=131_072))
    silent.hear(_finished(silent.last_said(commands.Generate).id, "Base."))
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    _reply(silent, "Tuned.")
    assert [reply.text for reply in chat.turns[0].replies] == ["Base.", "Tuned."]


def test_a_side_whose_chat_is_too_long_waits_for_those_beside_it(chat, silent):
    chat.send("Hello")
    _load_on_card(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=8193, context=131_072))
    assert [reply.state for reply in chat.turns[0].replies] == [Writing.LOADING, Writing.WAITS]
    silent.hear(_finished(silent.last_said(commands.Generate).id, "Base."))
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=8193, context=131_072))
    silent.hear(_finished(silent.last_said(commands.Generate).id, "Tuned."))
    assert [reply.text for reply in chat.turns[0].replies] == ["Base.", "Tuned."]
    assert not silent.said(commands.GenerateTogether)


def _four_at_once(four, silent):
    """The command that asks for all of them."""
    four.send("Hello")
    _load_on_card(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    for _ in range(3):
        silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
        silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    (together,) = silent.said(commands.GenerateTogether)
    return together


def _talk_with_four(four, silent):
    _talk(four, silent, "Hello", "Base.", "One.")
    for text in ("Two.", "Three."):
        silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
        _reply(silent, text)


def _example(name, model=MODEL):
    changes = {"model.path": model, "model.quantization": "fp4"}
    return Example(name=name, model="tiny", steps=20, evaluate_every=10, end="finished", changes=changes)


def _named(chat, *names):
    return [next(item for item in chat.choices if item.name == name) for name in names]


# Branches and what is kept ---------------------------------------------------------------------------


def test_a_message_said_otherwise_leaves_the_old_branch_to_come_back_to(base, silent):
    _talk_alone(base, silent)
    base.send("Second")
    _reply(silent, "Two.")
    first = base.turns[0]
    base.change(first, "Good day")
    _reply(silent, "Good day to you.")
    assert [turn.text for turn in base.turns] == ["Good day"]
    assert [turn.text for turn in base.branches.messages(base.turns[0])] == ["Hello", "Good day"]
    base.show_message(first)
    assert [turn.text for turn in base.turns] == ["Hello", "Second"]


def test_each_version_of_a_reply_has_its_own_continuation(base, silent):
    _talk_alone(base, silent)
    base.send("Second")
    _reply(silent, "Two.")
    turn = base.turns[0]
    base.again(turn, turn.replies[0])
    _reply(silent, "Other.")
    versions = base.branches.versions(base.turns[0], LEFT)
    assert [version.text for version in versions] == ["Hi.", "Other."]
    assert len(base.turns) == 1
    base.show_reply(base.turns[0], versions[0])
    assert [turn.text for turn in base.turns] == ["Hello", "Second"]
    base.send("Third")
    asked = silent.asked(reading.EncodeChat)[0].messages
    assert [message.content for message in asked] == ["Hello", "Hi.", "Second", "Two.", "Third"]


def test_a_version_of_one_side_leaves_the_other_side_as_it_is(chat, silent):
    _talk(chat, silent, "Hello", "Base 1", "Tuned 1")
    chat.again(chat.turns[0], chat.turns[0].reply(LEFT))
    _reply(silent, "Base 2")
    chat.again(chat.turns[0], chat.turns[0].reply(RIGHT))
    _reply(silent, "Tuned 2")
    first = chat.branches.versions(chat.turns[0], LEFT)[0]
    chat.show_reply(chat.turns[0], first)
    assert [reply.text for reply in chat.turns[0].replies] == ["Base 1", "Tuned 2"]


def test_a_failed_reply_is_no_version(base, silent):
    base.send("Hello")
    silent.refuse(reading.CheckModel, "model.safetensors is cut short.")
    base.again(base.turns[0], base.turns[0].replies[0])
    assert len(base.branches.versions(base.turns[0], LEFT)) == 1


def test_no_branch_is_chosen_while_a_reply_is_written(base, silent):
    _talk_alone(base, silent)
    first = base.turns[0]
    base.change(first, "Good day")
    base.show_message(first)
    assert base.turns[0].text == "Good day"


def test_a_conversation_is_kept_with_all_branches_and_opened_again(chat, silent, qtbot):
    chat.system = "Be brief."
    _talk(chat, silent, "Hello", "Base 1", "Tuned 1")
    chat.again(chat.turns[0], chat.turns[0].reply(LEFT))
    _reply(silent, "Base 2")
    path = chat.open_path
    chat.new_chat()
    assert (chat.turns, chat.open_path) == ([], None)
    chat.system = ""
    _open(chat, path, qtbot)
    assert [reply.text for reply in chat.turns[0].replies] == ["Base 2", "Tuned 1"]
    assert [reply.text for reply in chat.branches.versions(chat.turns[0], LEFT)] == ["Base 1", "Base 2"]
    assert (chat.system, chat.side_by_side, chat.model.path) == ("Be brief.", True, MODEL)
    chat.send("And now?")
    assert [message.content for message in silent.asked(reading.EncodeChat)[0].messages] == [
        "Be brief.", "Hello", "Base 2", "And now?",
    ]  # fmt: skip


def test_an_opened_conversation_goes_on_in_its_own_file(base, silent, qtbot):
    _talk_alone(base, silent)
    path = base.open_path
    base.new_chat()
    _open(base, path, qtbot)
    base.send("Second")
    _reply(silent, "Two.")
    base.conversations.wait()
    assert [turn.text for turn in read_conversation(path).turns] == ["Hello", "Second"]
    assert list(path.parent.iterdir()) == [path]


def test_a_conversation_outlives_the_adapter_it_was_led_with(chat, silent, qtbot):
    _talk(chat, silent, "Hello", "Base.", "Tuned.")
    path = chat.open_path
    chat.new_chat()
    chat.choices = []
    _open(chat, path, qtbot)
    assert [reply.text for reply in chat.turns[0].replies] == ["Base.", "Tuned."]
    assert (chat.tuned, chat.side_by_side) == (None, False)


def test_to_look_at_a_conversation_changes_nothing(four, silent, qtbot):
    _talk(four, silent, "Hello", "Base.", "Tuned.")
    four.stop()
    path = four.open_path
    four.new_chat()
    four.conversations.wait()
    kept = path.read_bytes(), path.stat().st_ino
    four.choices = []
    _open(four, path, qtbot)
    four.new_chat()
    _open(four, path, qtbot)
    four.choose_model("/models/other")
    _open(four, path, qtbot)
    four.close()
    assert (path.read_bytes(), path.stat().st_ino) == kept
    assert list(path.parent.iterdir()) == [path]


def test_an_opened_conversation_keeps_the_adapters_that_are_not_there_now(four, run, silent, qtbot):
    four.send("Hello")
    four.stop()
    path = four.open_path
    four.new_chat()
    known, four.choices = four.choices, []
    _open(four, path, qtbot)
    four.send("And now?")
    four.stop()
    four.conversations.wait()
    kept = read_conversation(path)
    assert (kept.adapter, len(kept.also), kept.side_by_side) == (str(run / "adapter"), 2, True)
    four.refresh()
    qtbot.waitUntil(lambda: four.choices == known)
    assert (four.tuned.name, [item.name for item in four.also]) == ("support", ["second", "third"])
    assert four.side_by_side
    four.choose_tuned(None)
    four.close()
    assert (read_conversation(path).adapter, read_conversation(path).also) == ("", ())


def test_what_could_not_be_saved_is_held_and_saved_at_the_end(base, silent, qtbot, monkeypatch):  # R10
    _talk_alone(base, silent)
    path = base.open_path
    base.conversations.wait()
    with monkeypatch.context() as broken:
        broken.setattr("qlora_studio.runs.durable.os.fsync", _no_space)
        base.rename(path, "Greetings")
        base.new_chat()
        with qtbot.waitSignal(base.conversations.told):
            assert base.save().startswith("Could not save the conversation")
        _open(base, path, qtbot)
        assert base.name == "Greetings"
        base.new_chat()
    base.close()
    assert read_conversation(path).name == "Greetings"
    assert base.save() == ""


def test_what_was_put_into_the_bin_is_not_saved_any_more(base, silent, tmp_path, monkeypatch):
    use_own_bin(monkeypatch, tmp_path / "bin")
    _talk_alone(base, silent)
    path = base.open_path
    base.conversations.wait()
    with monkeypatch.context() as broken:
        broken.setattr("qlora_studio.runs.durable.os.fsync", _no_space)
        base.rename(path, "Greetings")
        base.conversations.wait()
    base.move_to_bin(path)
    base.close()
    assert list(path.parent.iterdir()) == []


def test_what_was_typed_is_kept_before_the_first_word_of_the_reply(base):
    base.send("Hello")
    base.conversations.wait()
    kept = read_conversation(base.open_path)
    assert (kept.turns[0].text, kept.replies[0].ended) == ("Hello", "stopped")


def test_closing_the_window_keeps_what_was_written_so_far(base, silent):
    base.send("Hello")
    _load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    silent.hear(events.TextGenerated(id=silent.last_said(commands.Generate).id, text="Half a", tokens=2))
    base.close()
    assert read_conversation(base.open_path).replies[0].text == "Half a"


def test_another_base_begins_another_conversation(base, silent):
    _talk_alone(base, silent)
    first = base.open_path
    base.choose_model("/models/other")
    assert base.open_path is None
    base.conversations.wait()
    assert read_conversation(first).model.path == MODEL


def test_a_name_is_kept_open_or_not(base, silent, qtbot):
    _talk_alone(base, silent)
    path = base.open_path
    base.rename(path, "Greetings")
    qtbot.waitUntil(lambda: [item.title for item in base.conversations.table.items] == ["Greetings"])
    base.new_chat()
    base.rename(path, "Hellos")
    qtbot.waitUntil(lambda: [item.title for item in base.conversations.table.items] == ["Hellos"])
    base.rename(path, "")
    qtbot.waitUntil(lambda: [item.title for item in base.conversations.table.items] == ["Hello"])


def test_the_bin_takes_a_conversation_and_gives_it_back(base, app, silent, qtbot, tmp_path, monkeypatch):
    use_own_bin(monkeypatch, tmp_path / "bin")
    _talk_alone(base, silent)
    path = base.open_path
    base.move_to_bin(path)
    qtbot.waitUntil(lambda: bool(app.notices.last) and base.conversations.count == 0)
    assert (base.turns, path.exists()) == ([], False)
    app.notices.last[-1].undo()
    qtbot.waitUntil(lambda: base.conversations.count == 1)
    assert read_conversation(path).replies[0].text == "Hi."


def test_a_conversation_that_is_opened_twice_before_it_was_read_stays_one(base, silent, qtbot):
    _talk_alone(base, silent)
    path = base.open_path
    base.new_chat()
    base.open(path)
    _open(base, path, qtbot)
    base.open(path)
    base.send("Second")
    _reply(silent, "Two.")
    base.conversations.wait()
    assert list(path.parent.iterdir()) == [path]
    assert [turn.text for turn in base.turns] == ["Hello", "Second"]


def test_of_several_that_are_opened_at_once_the_last_is_shown(base, silent, qtbot):
    paths = _two_conversations(base, silent)
    for path in paths:
        base.open(path)
    qtbot.waitUntil(lambda: base.open_path is not None)
    assert base.open_path == paths[-1]
    base.open(paths[0])
    base.new_chat()
    base.conversations.wait()
    assert base.turns == []


def test_what_could_not_be_opened_can_be_tried_again(base, silent, qtbot):
    _talk_alone(base, silent)
    path = base.open_path
    base.new_chat()
    base.conversations.wait()
    whole = path.read_bytes()
    path.write_bytes(b"{")
    with qtbot.waitSignal(base.conversations.told):
        base.open(path)
    path.write_bytes(whole)
    _open(base, path, qtbot)
    assert base.turns[0].text == "Hello"


def test_a_conversation_that_can_not_be_opened_leaves_this_one(base, silent, qtbot):
    _talk_alone(base, silent)
    base.conversations.wait()
    torn = base.open_path.with_name("torn.json")
    torn.write_bytes(b'{"schema_version": 1, "tur')
    with qtbot.waitSignal(base.conversations.told) as told:
        base.open(torn)
    assert told.args[0].startswith("torn.json is damaged.")
    assert base.turns[0].text == "Hello"


def test_looking_at_the_folder_drops_what_a_killed_window_had_half_saved(base):
    folder = places.conversations_folder()
    folder.mkdir(parents=True)
    torn = folder / ".2026-01-01-120000-abcdef.json.0123abcd.tmp"
    torn.write_text('{"schema_version": 1, "tur')
    os.utime(torn, (1, 1))
    base.conversations.refresh()
    base.conversations.wait()
    assert not torn.exists()


def test_the_list_of_conversations_is_a_sound_model(base, silent, qtbot, qtmodeltester):
    _talk_alone(base, silent)
    qtbot.waitUntil(lambda: base.conversations.count == 1)
    qtmodeltester.check(base.conversations.table)


def _no_space(descriptor):
    raise OSError(28, "No space left on device")


def _two_conversations(base, silent):
    """Neither is open."""
    _talk_alone(base, silent)
    paths = [base.open_path]
    base.new_chat()
    base.send("What is rust?")
    _reply(silent, "Iron oxide.")
    paths.append(base.open_path)
    base.new_chat()
    return paths


def _open(chat, path, qtbot):
    chat.open(path)
    qtbot.waitUntil(lambda: chat.open_path == path)


def _load(silent, model=MODEL):
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(model))
    _loaded(silent, model)


def _load_on_card(silent):
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    silent.hear(
        events.EngineReady(
            device="cuda", device_name="H100", memory_bytes=80 << 30, free_bytes=70 << 30, versions={}
        )
    )
    _loaded(silent)


def _loaded(silent, model=MODEL):
    silent.hear(
        events.ModelLoaded(
            model=model,
            parameters=1,
            trainable_parameters=0,
            seconds=1.0,
            device_name="CPU",
            compute_dtype="float32",
        )
    )


def _reply(silent, text):
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    silent.hear(_finished(silent.last_said(commands.Generate).id, text))


def _finished(reply_id, text, ended="end"):
    return events.GenerationFinished(
        id=reply_id, reply=text, tokens=3, tokens_per_second=13.0, first_token_seconds=0.2, ended=ended
    )


def _talk(chat, silent, message, base_reply, tuned_reply):
    chat.send(message)
    _load(silent)
    _reply(silent, base_reply)
    silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    _reply(silent, tuned_reply)


def _talk_alone(base, silent):
    base.send("Hello")
    _load(silent)
    _reply(silent, "Hi.")


def _fail(silent, at):
    """Goes as far as `at`, and fails there. Gives the words."""
    if at == "check":
        silent.refuse(reading.CheckModel, "model.safetensors is cut short.")
        return "model.safetensors is cut short."
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    if at == "load":
        loading = silent.last_said(commands.LoadModel)
        silent.hear(events.CommandFailed(id=loading.id, error=Problem("Out of memory.")))
        return "Out of memory."
    if at == "engine":
        silent.engines[0].end("SIGSEGV")
        return "The engine ended (SIGSEGV)."
    _loaded(silent)
    if at == "encode":
        silent.refuse(reading.EncodeChat, "The template fails at line 3.")
        return "The template fails at line 3."
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
    writing = silent.last_said(commands.Generate)
    silent.hear(events.CommandFailed(id=writing.id, error=Problem("Out of memory.")))
    return "Out of memory."


def _of_all_weights(app, qtbot, changes=None):
    """A finished run that trained all weights of MODEL, chosen in the chat."""
    full = {"training.finetuning": "full", "model.quantization": "none", "model.path": MODEL}
    changes = full | (changes or {})
    made = Example(name="full", model="tiny", steps=20, evaluate_every=10, end="finished", changes=changes)
    run = make_run(app.preferences.runs_folder, made)
    app.chat.refresh(run)
    qtbot.waitUntil(lambda: app.chat.own_model is not None)
    return run


def _refreshed(chat, qtbot):
    with qtbot.waitSignal(chat.changed):
        chat.refresh()


def test_a_model_of_which_all_weights_were_trained_stays_at_a_refresh(app, qtbot):
    run = _of_all_weights(app, qtbot)
    _refreshed(app.chat, qtbot)
    assert (app.chat.model.path, app.chat.own_model.name) == (str(run / "model"), "full")


def test_another_base_than_a_model_of_all_weights_is_that_of_the_draft(app, qtbot):
    _of_all_weights(app, qtbot)
    app.draft.set_many({"model.path": "/models/other"})  # Change, on the base's tile, leads there
    _refreshed(app.chat, qtbot)
    assert (app.chat.model.path, app.chat.own_model) == ("/models/other", None)


def test_a_model_of_all_weights_stays_after_the_conversation_with_it(app, silent, qtbot):
    run = _of_all_weights(app, qtbot)
    app.chat.send("Hello")
    app.chat.stop()
    path = app.chat.open_path
    app.chat.choose_tuned(None)
    app.draft.set_many({"model.path": "/models/other"})
    _open(app.chat, path, qtbot)
    app.chat.new_chat()
    _refreshed(app.chat, qtbot)
    assert app.chat.model.path == str(run / "model")


def test_after_a_model_of_all_weights_no_adapter_is_the_model_it_began_with(app, qtbot):
    _of_all_weights(app, qtbot)
    app.chat.choose_tuned(None)
    _refreshed(app.chat, qtbot)
    assert (app.chat.model.path, app.chat.own_model, app.chat.tuned) == (MODEL, None, None)


def test_a_base_that_was_chosen_stays_until_the_draft_has_another_one(base, app, qtbot):
    _refreshed(base, qtbot)
    assert base.model.path == MODEL
    app.draft.set_many({"model.path": "/models/other"})
    _refreshed(base, qtbot)
    assert base.model.path == "/models/other"


def test_no_adapter_stays_at_a_refresh(chat, qtbot):
    chat.choose_tuned(None)
    _refreshed(chat, qtbot)
    assert (chat.model.path, chat.tuned) == (MODEL, None)


def test_the_prompts_of_a_run_of_all_weights_are_offered_too(app, qtbot):
    _of_all_weights(app, qtbot, {"samples": (SamplePrompt(prompt="Why is the sky green?"),)})
    assert app.chat.prompts()[0] == "Why is the sky green?"


def test_a_model_of_which_all_weights_were_trained_answers_alone(app, chat, silent, qtbot):
    adapter = chat.tuned
    run = _of_all_weights(app, qtbot)
    assert (chat.tuned, chat.own_model.name, chat.side_by_side) == (None, "full", False)
    assert chat.others() == []

    chat.send("Hello")
    model = str(run / "model")
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(model))
    loading = silent.last_said(commands.LoadModel)
    assert (loading.model, loading.quantization) == (model, "none")
    chat.stop()

    chat.choose_tuned(adapter)
    assert (chat.model.path, chat.own_model, chat.tuned) == (MODEL, None, adapter)
