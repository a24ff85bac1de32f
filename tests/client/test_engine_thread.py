"""The engine's thread: commands go in, events come out, and every end is told."""

from __future__ import annotations

import os
import signal
import time

import pytest

from qlora_studio.client.engine_thread import EngineThread
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Export, MakeSampleModel, SaveNow
from qlora_studio.protocol.events import Alive, SampleModelReady
from qlora_studio.protocol.lines import COMMANDS, EVENTS
from tests.client.scripted_child import ScriptedChild

ANSWERING = """
say("alive")
for command in heard():
    say("sample_model_ready", id=command["id"], folder="/models/sample")
"""
DEAF = "say('alive'); time.sleep(60)"


@pytest.fixture
def start(qtbot, monkeypatch):
    threads = []

    def start(script):
        monkeypatch.setattr(
            "qlora_studio.client.engine_thread.start_engine", lambda: ScriptedChild(script, COMMANDS, EVENTS)
        )
        thread = EngineThread()
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.kill()
        thread.hang_up()
        assert thread.wait(5_000)


def test_what_is_said_goes_in_and_what_is_heard_comes_out(start, qtbot):
    thread = start(ANSWERING)
    heard = []
    thread.heard.connect(heard.append)

    thread.say(MakeSampleModel(id=7))

    qtbot.waitUntil(lambda: len(heard) == 2)
    assert heard == [Alive(), SampleModelReady(id=7, folder="/models/sample")]


def test_an_engine_that_is_hung_up_on_ends_without_a_reason(start, qtbot):
    thread = start(ANSWERING)
    with qtbot.waitSignal(thread.ended) as ended:
        thread.hang_up()
    assert ended.args == [""]


def test_what_was_said_before_the_end_is_still_heard(start, qtbot):
    thread = start(ANSWERING)
    heard = []
    thread.heard.connect(heard.append)
    with qtbot.waitSignal(thread.ended):
        thread.say(MakeSampleModel(id=1))
        thread.hang_up()
    assert SampleModelReady(id=1, folder="/models/sample") in heard


@pytest.mark.fault(18)
def test_a_killed_engine_ends_with_words(start, qtbot):  # R7, fault 18
    thread = start(DEAF)
    with qtbot.waitSignal(thread.heard):
        pass
    with qtbot.waitSignal(thread.ended) as ended:
        os.kill(thread.pid, signal.SIGKILL)
    assert ended.args == ["killed by the system, memory?"]


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    ("script", "words"),
    [("os.abort()", "SIGABRT"), ("sys.exit(3)", "exit status 3")],
    ids=["abort", "exit status"],
)
def test_an_engine_that_ends_by_itself_says_how(start, qtbot, script, words):  # R7, fault 5
    ended = []
    thread = start(f"for _ in heard(): {script}")
    thread.ended.connect(ended.append)
    thread.say(SaveNow())
    qtbot.waitUntil(lambda: bool(ended))
    assert ended == [words]


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    "line",
    [
        "'no message'",
        "json.dumps({'type': 'run_finished', 'step': 'many'})",
        "'[' * 100_000",
        "'x' * 1_100_000",
    ],
    ids=["no JSON", "a wrong value", "too deep", "too long"],
)
def test_a_line_that_is_no_message_ends_the_engine_and_not_the_window(start, qtbot, line):  # S13, fault 29
    ended = []
    thread = start(f"next(heard()); print({line}, flush=True); time.sleep(60)")
    thread.ended.connect(ended.append)
    thread.say(SaveNow())
    qtbot.waitUntil(lambda: bool(ended))
    assert ended[0].startswith("it said something that is no message")


def test_an_engine_that_does_not_listen_holds_up_nobody(start, qtbot):
    thread = start(DEAF)
    command = Export(id=1, run="/run", to="adapter", out="/out", prompts=(tuple(range(50_000)),))
    began = time.monotonic()
    for _ in range(3):  # more than a pipe takes
        thread.say(command)
    assert time.monotonic() - began < 0.1


def test_an_engine_is_killed_also_while_it_is_being_started(qtbot, monkeypatch):
    thread = EngineThread()

    def start_and_kill():
        thread.kill()
        return ScriptedChild(DEAF, COMMANDS, EVENTS)

    monkeypatch.setattr("qlora_studio.client.engine_thread.start_engine", start_and_kill)
    with qtbot.waitSignal(thread.ended) as ended:
        thread.start()
    assert thread.wait(5_000)
    assert ended.args == ["killed by the system, memory?"]


def test_an_engine_that_can_not_be_started_is_told(qtbot, monkeypatch):
    def refuse():
        raise StudioError("The engine could not be started: no memory.")

    monkeypatch.setattr("qlora_studio.client.engine_thread.start_engine", refuse)
    thread = EngineThread()
    with qtbot.waitSignal(thread.ended) as ended:
        thread.start()
    assert thread.wait(5_000)
    assert ended.args == ["The engine could not be started: no memory."]
