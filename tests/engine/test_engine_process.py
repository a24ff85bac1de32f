"""The engine as a process of its own: what comes in, what goes out, and how it ends."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from qlora_studio.engine.inbox import Inbox
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol import commands, events
from qlora_studio.protocol.child import Child, start_engine
from qlora_studio.protocol.commands import EngineCommand
from qlora_studio.protocol.events import EngineEvent
from qlora_studio.runs.checkpoints import newest_sound
from qlora_studio.runs.run_state import read_state
from tests.engine.tiny import make_model, make_run

Engine = Child[EngineCommand, EngineEvent]
E = TypeVar("E")


@pytest.fixture
def engine() -> Iterator[Engine]:
    child = start_engine()
    yield child
    child.kill()
    child.wait()


def heard(engine: Engine, kind: type[E]) -> E:
    """The next event of this kind."""
    return next(event for event in engine.heard() if isinstance(event, kind))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, make_model(tmp_path / "model"), training__epochs=1000.0)


def test_an_engine_trains_pauses_goes_on_and_saves_when_its_window_is_gone(engine: Engine, run: Path) -> None:
    assert heard(engine, events.EngineReady).device in ("cpu", "cuda")
    engine.say(commands.Train(run=str(run)))
    heard(engine, events.StepFinished)
    engine.say(commands.PauseTraining())
    assert heard(engine, events.RunFinished).state == "paused"
    engine.say(commands.Train(run=str(run)))
    heard(engine, events.StepFinished)

    engine.hang_up()  # R7

    rest = list(engine.heard())
    finished = rest[-1]
    assert isinstance(finished, events.RunFinished)
    assert finished.state == "paused"
    assert engine.wait(20) == 0
    newest = newest_sound(run)
    assert newest is not None
    assert newest.step == finished.step
    assert "layers fused" in (run / "engine.log").read_text()


def test_a_command_that_is_refused_leaves_the_engine_at_work(engine: Engine, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")

    engine.say(commands.LoadModel(id=7, model=str(tmp_path / "nowhere")))
    refused = heard(engine, events.CommandFailed)
    engine.say(commands.Train(run=str(tmp_path)))
    failed = heard(engine, events.RunFailed)
    engine.say(commands.ScanWeights(id=8, model=str(model)))
    scanned = heard(engine, events.WeightsScanned)
    engine.say(commands.Quit())

    assert (refused.id, str(tmp_path / "nowhere") in refused.error.message) == (7, True)
    assert "run.json" in failed.error.message
    assert (scanned.id, scanned.tensors, scanned.bad) == (8, 21, ())
    assert engine.wait(20) == 0


@pytest.mark.fault(29)
def test_a_line_that_is_no_command_ends_the_engine(engine: Engine) -> None:  # S13
    heard(engine, events.EngineReady)

    os.write(engine._process.stdin.fileno(), b'{"type":"format_disk"}\n')  # type: ignore[union-attr]

    assert engine.wait(20) == 1
    assert "format_disk" in engine.log.read_text()


@pytest.mark.fault(1)
def test_an_engine_that_is_killed_leaves_a_run_that_goes_on(engine: Engine, run: Path) -> None:  # R1, R4
    engine.say(commands.Train(run=str(run)))
    heard(engine, events.CheckpointSaved)

    os.kill(engine.pid, signal.SIGKILL)
    engine.wait()

    newest = newest_sound(run)
    state = read_state(run).state
    assert newest is not None
    assert newest.step >= 2
    assert state is not None
    assert state.state == "running"  # nobody holds its lock: readers call it interrupted


def test_half_a_minute_without_a_heartbeat_means_save_and_exit(monkeypatch: pytest.MonkeyPatch) -> None:  # R7
    now = 1000.0
    monkeypatch.setattr("qlora_studio.engine.inbox.time.monotonic", lambda: now)
    told = Inbox()
    assert told.wish() is Wish.NOTHING  # a terminal's engine, which hears none, lives on
    told.take(commands.Heartbeat())

    now += 29.0
    alive = told.wish()
    now += 2.0
    silent = told.wish()

    assert (alive, silent) == (Wish.NOTHING, Wish.PAUSE)
    assert told.next_command() is None


@pytest.mark.parametrize(
    ("said", "wishes"),
    [
        ([commands.SaveNow()], [Wish.SAVE, Wish.NOTHING]),
        ([commands.StopTraining()], [Wish.STOP, Wish.STOP]),
        ([commands.PauseTraining(), commands.SaveNow()], [Wish.PAUSE, Wish.PAUSE]),
        ([commands.StopTraining(), commands.Train(run="next")], [Wish.NOTHING, Wish.NOTHING]),
    ],
)
def test_wishes_reach_the_run_in_training(said: list[Any], wishes: list[Wish]) -> None:
    told = Inbox()

    for command in said:
        told.take(command)

    assert [told.wish(), told.wish()] == wishes


def test_a_reply_that_is_no_longer_wanted_is_stopped_by_its_id() -> None:
    told = Inbox()

    told.take(commands.StopGenerating(id=3))

    assert told.is_stopped(3)
    assert not told.is_stopped(4)


def test_an_engine_whose_events_nobody_reads_ends() -> None:
    from qlora_studio.engine.outbox import Outbox

    reader, writer = os.pipe()
    os.close(reader)
    silent = threading.Event()
    outbox = Outbox(os.fdopen(writer, "wb"), on_silence=silent.set)

    outbox.tell(events.Alive())
    outbox.tell(events.Alive())

    assert silent.is_set()
