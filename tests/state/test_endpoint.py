"""The local endpoint's side of the window: one request after the other, by base and adapter of the chat."""

from __future__ import annotations

import time

import msgspec
import pytest

from qlora_studio.protocol import commands, events, openai, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.endpoint import StopWords
from tests.state.reports import CHECKED_ADAPTER, chat_encoded, model_report
from tests.ui.example_runs import Example, make_run

MODEL = "/models/tiny"


@pytest.fixture
def run(app):
    example = Example(name='support "one"', model="tiny", steps=20, evaluate_every=10, end="finished")
    return make_run(app.preferences.runs_folder, example)


@pytest.fixture
def endpoint(app, run, loopback, qtbot):
    """Listening, with the run's adapter chosen in the chat."""
    app.chat.refresh(run)
    qtbot.waitUntil(lambda: app.chat.tuned is not None)
    app.endpoint.start()
    yield app.endpoint
    app.endpoint.stop()


def ask(endpoint, model="base", **fields):
    """As a connection does it. Returns: the exchange."""
    body = {"model": model, "messages": [{"role": "user", "content": "Why?"}]} | fields
    return endpoint._thread.open_exchange(openai.chat_request(msgspec.json.encode(body)))


def load(silent, adapter=False):
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    if adapter:
        silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
    return load_again(silent)


def load_again(silent):
    """What was checked already."""
    loading = silent.last_said(commands.LoadModel)
    silent.hear(
        events.ModelLoaded(
            model=loading.model, parameters=1, trainable_parameters=0, seconds=1.0, device_name="CPU",
            compute_dtype="float32",
        )
    )  # fmt: skip
    return loading.id


def write(silent, *texts, ended="end", ids=12):
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=ids))
    command = silent.last_said(commands.Generate)
    for number, text in enumerate(texts, start=1):
        silent.hear(events.TextGenerated(id=command.id, text=text, tokens=number))
    silent.hear(
        events.GenerationFinished(
            id=command.id, reply="".join(texts), tokens=len(texts), tokens_per_second=13.0,
            first_token_seconds=0.2, ended=ended,
        )
    )  # fmt: skip
    return command


def said(exchange):
    """Pieces so far, and the last one."""
    pieces = []
    while not exchange.said.empty():
        pieces.append(exchange.said.get())
    return [piece.text for piece in pieces if piece.text], pieces[-1] if pieces else None


def test_nothing_listens_before_it_is_started(app):  # S10
    assert not app.endpoint.running
    assert (app.endpoint.url, app.endpoint.token, app.endpoint.command) == ("", "", "")


def test_base_and_adapters_of_the_chat_are_served_under_names_without_quotes(endpoint):
    assert endpoint.models == ("base", "support--one-")
    assert endpoint.url.startswith("http://127.0.0.1:")
    assert endpoint.token in endpoint.command


def test_each_start_has_a_token_of_its_own(endpoint):
    first = endpoint.token
    endpoint.stop()
    endpoint.start()
    assert len(first) >= 32
    assert endpoint.token != first


def test_the_adapter_answers_with_the_template_it_was_trained_with(endpoint, silent, run):
    exchange = ask(endpoint, "support--one-", temperature=0, max_tokens=5)
    base = load(silent, adapter=True)
    asked = silent.asked(reading.EncodeChat)[0]
    assert (asked.run, asked.trained, asked.messages[0].content) == (str(run), True, "Why?")
    command = write(silent, "Be", "cause.")
    assert (command.base, command.adapter) == (base, str(run / "adapter"))
    assert (command.sampling.greedy, command.sampling.max_tokens) == (True, 5)
    texts, last = said(exchange)
    assert texts == ["Be", "cause."]
    assert (last.ended, last.prompt_tokens, last.tokens) == ("stop", 12, 2)
    assert endpoint.answered == 1


def test_requests_wait_for_each_other_and_the_model_is_loaded_once(endpoint, silent):
    first, second = ask(endpoint), ask(endpoint)
    assert endpoint.waiting == 2
    load(silent)
    write(silent, "One.", ended="length")
    assert said(first)[1].ended == "length"
    write(silent, "Two.")
    assert said(second)[0] == ["Two."]
    assert len(silent.said(commands.LoadModel)) == 1
    assert endpoint.waiting == 0


def test_a_reply_ends_before_a_stop_word_that_comes_in_pieces(endpoint, silent):
    exchange = ask(endpoint, stop=["END"])
    load(silent)
    command = write(silent, "One E", "N", "D two")
    texts, last = said(exchange)
    assert ("".join(texts), last.ended) == ("One ", "stop")
    assert silent.last_said(commands.StopGenerating).id == command.id


@pytest.mark.parametrize(
    ("words", "pieces", "expected"),
    [
        ((), ["a", "b"], "ab"),
        (("END",), ["EN", "EN", "x"], "ENENx"),
        (("END",), ["x EN"], "x EN"),
        (("aab",), ["aaa", "b", "c"], "a"),
        (("longer", "on"), ["l", "onger"], ""),
        (("a" * 1_000,), ["a" * 999, "b"], "a" * 999 + "b"),
    ],
)
def test_only_what_can_be_no_stop_word_is_said(words, pieces, expected):
    cut = StopWords(words)
    assert "".join([*(cut.add(piece) for piece in pieces), cut.rest()]) == expected


def test_no_more_of_a_stop_word_is_compared_than_there_is_of_the_reply():
    cut = StopWords(("a" * 2_000_000,))  # its beginnings of every length would be copied for minutes
    began = time.process_time()
    assert [cut.add(letter) for letter in "ba"] == ["b", ""]
    assert time.process_time() - began < 1
    assert cut.rest() == "a"


def test_a_run_that_trains_holds_the_device(endpoint, app, run):
    app.engine.train(run)
    failed = said(ask(endpoint))[1].failed
    assert failed is not None
    assert failed[0] == 503
    assert "is training and holds the device" in failed[1]


def test_a_chat_too_long_for_the_model_is_refused(endpoint, silent):
    exchange = ask(endpoint)
    load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=20_000))
    status, message = said(exchange)[1].failed
    assert (status, "the model holds" in message) == (400, True)


def test_what_the_engine_can_not_do_is_told_and_the_next_one_is_answered(endpoint, silent):
    first, second = ask(endpoint), ask(endpoint)
    load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=12))
    command = silent.last_said(commands.Generate)
    silent.hear(events.CommandFailed(id=command.id, error=Problem("The GPU ran out of memory.")))
    assert said(first)[1].failed == (500, "The GPU ran out of memory.")
    load_again(silent)
    write(silent, "Two.")
    assert said(second)[0] == ["Two."]


@pytest.mark.parametrize("while_encoding", [False, True])
def test_after_a_pause_the_model_is_loaded_by_the_next_engine(endpoint, app, silent, while_encoding):
    ask(endpoint)
    load(silent)
    write(silent, "One.")
    exchange = ask(endpoint) if while_encoding else None
    app.engine.release()
    silent.engines[-1].end()
    if while_encoding:
        silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=12))
    exchange = exchange or ask(endpoint)
    assert [type(command) for command in silent.engines[1].said] == [commands.LoadModel]
    loading = load_again(silent)
    assert write(silent, "Two.").base == loading
    assert said(exchange)[0] == ["Two."]


@pytest.mark.fault(17)
def test_after_out_of_memory_the_model_is_loaded_by_the_next_engine(endpoint, silent):
    first, second = ask(endpoint), ask(endpoint)
    load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=12))
    command = silent.last_said(commands.Generate)
    silent.hear(events.CommandFailed(id=command.id, error=Problem("No memory."), device_spoiled=True))
    assert said(first)[1].failed == (500, "No memory.")
    silent.engines[0].end()
    assert [type(asked) for asked in silent.engines[1].said] == [commands.LoadModel]
    loading = load_again(silent)
    assert write(silent, "Two.").base == loading
    assert said(second)[0] == ["Two."]


def test_an_engine_that_dies_is_told_and_started_anew_for_the_next_one(endpoint, silent):
    exchange = ask(endpoint)
    load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=12))
    silent.engines[-1].end("killed by the system")
    assert said(exchange)[1].failed == (503, "The engine ended (killed by the system).")
    ask(endpoint)
    assert len(silent.said(commands.LoadModel)) == 2


def test_a_client_that_hangs_up_stops_its_reply(endpoint, silent):
    exchange, second = ask(endpoint), ask(endpoint)
    load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=12))
    command = silent.last_said(commands.Generate)
    endpoint._thread.close_exchange(exchange, answered=False)
    assert silent.last_said(commands.StopGenerating).id == command.id
    write(silent, "Two.")
    assert said(second)[0] == ["Two."]


def test_stopping_it_ends_the_reply_in_hand_and_those_that_wait(endpoint, silent):
    first, second = ask(endpoint), ask(endpoint)
    load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=12))
    endpoint.stop()
    assert silent.said(commands.StopGenerating)
    assert said(first)[1].failed == said(second)[1].failed == (503, "The endpoint was closed.")
    assert not endpoint.running
    assert endpoint.waiting == 0


def test_nothing_is_asked_twice_where_the_sample_model_is_made_meanwhile(endpoint, app, silent):
    exchange = ask(endpoint)
    load(silent)
    silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded(ids=12))
    app.sample_model.made.emit()
    assert not silent.asked(reading.EncodeChat)
    assert len(silent.said(commands.Generate)) == 1
    command = silent.last_said(commands.Generate)
    silent.hear(events.TextGenerated(id=command.id, text="One.", tokens=1))
    assert said(exchange)[0] == ["One."]


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_loads_for_a_client_that_left_serves_the_next_one(endpoint, silent, fails):
    first = ask(endpoint)
    silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
    loading = silent.last_said(commands.LoadModel)
    endpoint._thread.close_exchange(first, answered=False)
    second = ask(endpoint)
    assert len(silent.said(commands.LoadModel)) == 1
    if fails:
        silent.hear(events.CommandFailed(id=loading.id, error=Problem("No memory.")))
        assert said(second)[1].failed == (500, "No memory.")
        return
    assert load_again(silent) == loading.id
    assert write(silent, "Two.").base == loading.id
    assert said(second)[0] == ["Two."]
