"""The reader's thread: one answer for each request, whatever becomes of the process."""

from __future__ import annotations

import pytest

from qlora_studio.client import reader_thread
from qlora_studio.client.reader_thread import SILENCE_S, ReaderThread
from qlora_studio.protocol.lines import ANSWERS, REQUESTS
from qlora_studio.protocol.reading import (
    AdapterChecked,
    CheckAdapter,
    CheckModel,
    CheckResume,
    Progress,
    Refused,
    ResumeReady,
)
from tests.client.scripted_child import ScriptedChild

# Answers each kind of request in its own way.
SCRIPT = """
say("reader_ready")
for request in heard():
    if request["type"] == "check_resume":
        say("progress", id=request["id"], done=1, total=2, words="Reading")
        say("resume_ready", id=request["id"], run=request["run"], step=os.getpid())
    elif request["type"] == "check_adapter":
        say("adapter_checked", id=0, r=1, target_modules=[], warnings=[])
        say("adapter_checked", id=request["id"], r=8, target_modules=["q_proj"], warnings=[])
    elif request["folder"] == "hangs":
        time.sleep(60)
    elif request["folder"] == "aborts":
        os.abort()
    elif request["folder"] == "babbles":
        print("no message", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def thread(qtbot, monkeypatch):
    monkeypatch.setattr(reader_thread, "start_reader", lambda: ScriptedChild(SCRIPT, REQUESTS, ANSWERS))
    thread = ReaderThread()
    thread.start()
    yield thread
    thread.end()
    assert thread.wait(5_000)


@pytest.fixture
def heard(thread):
    answers = []
    thread.heard.connect(answers.append)
    return answers


def test_a_request_gets_its_progress_and_its_answer(thread, heard, qtbot):
    thread.ask(CheckResume(id=1, run="/runs/a"))
    qtbot.waitUntil(lambda: len(heard) == 2)
    assert heard[0] == Progress(id=1, done=1, total=2, words="Reading")
    assert (heard[1].id, heard[1].run) == (1, "/runs/a")


def test_one_process_answers_in_the_order_of_the_requests(thread, heard, qtbot):
    for number in (1, 2, 3):
        thread.ask(CheckResume(id=number, run="/runs/a"))
    qtbot.waitUntil(lambda: len(_ready(heard)) == 3)
    assert [answer.id for answer in _ready(heard)] == [1, 2, 3]
    assert len({answer.step for answer in _ready(heard)}) == 1  # the script gives its own process id


def test_an_answer_to_another_request_is_not_heard(thread, heard, qtbot):
    thread.ask(CheckAdapter(id=4, folder="/a", base="/b"))
    qtbot.waitUntil(lambda: bool(heard))
    assert heard == [AdapterChecked(id=4, r=8, target_modules=("q_proj",), warnings=())]


@pytest.mark.fault(32)
def test_a_request_that_is_given_up_ends_at_once_and_the_next_one_works(thread, heard, qtbot):  # D1, fault 32
    thread.ask(CheckModel(id=1, folder="hangs"))
    qtbot.waitUntil(lambda: thread._current == 1 and thread._child is not None)
    thread.give_up(1)
    thread.ask(CheckResume(id=2, run="/runs/a"))
    qtbot.waitUntil(lambda: bool(_ready(heard)), timeout=2_000)
    assert (heard[0].id, heard[0].error.message) == (1, "Stopped.")


def test_a_request_given_up_while_the_reader_starts_ends_too(thread, heard, qtbot, monkeypatch):
    def start_and_give_up():
        thread.give_up(1)
        return ScriptedChild(SCRIPT, REQUESTS, ANSWERS)

    monkeypatch.setattr(reader_thread, "start_reader", start_and_give_up)
    thread.ask(CheckModel(id=1, folder="hangs"))
    qtbot.waitUntil(lambda: bool(heard), timeout=2_000)
    assert heard[0].error.message == "Stopped."


def test_a_request_given_up_before_its_turn_is_never_asked(thread, heard, qtbot):
    thread.ask(CheckModel(id=1, folder="hangs"))
    thread.ask(CheckModel(id=2, folder="aborts"))
    thread.give_up(2)
    qtbot.waitUntil(lambda: thread._current == 1 and thread._child is not None)
    thread.give_up(1)
    qtbot.waitUntil(lambda: len(heard) == 2)
    assert [answer.error.message for answer in heard] == ["Stopped.", "Stopped."]


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("folder", "reason"), [("aborts", "SIGABRT"), ("babbles", "killed")], ids=["aborts", "babbles"]
)
def test_a_reader_that_dies_refuses_its_request_and_the_next_one_works(
    thread, heard, qtbot, folder, reason
):  # S7, S13, fault 32
    thread.ask(CheckModel(id=1, folder=folder))
    thread.ask(CheckResume(id=2, run="/runs/a"))
    qtbot.waitUntil(lambda: bool(_ready(heard)))
    refused = heard[0]
    assert isinstance(refused, Refused)
    assert reason in refused.error.message
    assert refused.error.hint == "Your file is unchanged."


@pytest.mark.fault(32)
def test_a_reader_without_a_word_for_thirty_seconds_is_ended(thread, heard, qtbot, monkeypatch):  # D1
    thread.ask(CheckModel(id=1, folder="hangs"))
    qtbot.waitUntil(lambda: thread._current == 1 and thread._child is not None)
    thread.end_if_silent()
    assert not heard
    now = reader_thread.time.monotonic()
    monkeypatch.setattr(reader_thread.time, "monotonic", lambda: now + SILENCE_S + 1)
    thread.end_if_silent()
    qtbot.waitUntil(lambda: bool(heard))
    assert heard[0].error.message == "Stopped."


def test_the_real_reader_refuses_in_words(qtbot, tmp_path):
    thread = ReaderThread()
    thread.start()
    with qtbot.waitSignal(thread.heard, timeout=20_000) as heard:
        thread.ask(CheckModel(id=1, folder=str(tmp_path / "nothing")))
    thread.end()
    assert thread.wait(5_000)
    assert isinstance(heard.args[0], Refused)
    assert "nothing" in heard.args[0].error.message


def _ready(heard):
    return [answer for answer in heard if isinstance(answer, ResumeReady)]
