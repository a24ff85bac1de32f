"""The thread that looks at other programs: it tells the most, and ends whatever the driver does."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from qlora_studio.engine import memory_watch
from qlora_studio.engine.device import Device
from qlora_studio.engine.memory_meter import MemoryMeter
from qlora_studio.engine.memory_watch import MemoryWatch
from qlora_studio.memory import others
from qlora_studio.memory.parts import never_estimated
from qlora_studio.protocol.events import RunStarted, StepFinished
from tests.engine.tiny import events_of, make_model, make_run, of_kind


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_watch, "PERIOD_S", 0.002)


def watched(*looks: int | None) -> MemoryWatch:
    """After these, each was looked at; then the last one again and again."""
    answers = list(looks)
    watch = MemoryWatch(lambda: answers.pop(0) if len(answers) > 1 else answers[0])
    watch.start()
    wait_for(lambda: watch.looks > len(looks))
    return watch


def wait_for(found: Any) -> None:
    end = time.monotonic() + 20
    while not found():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_the_most_since_the_last_question_is_told() -> None:
    watch = watched(3, 9, None, 4)
    assert watch.most() == 9
    wait_for(lambda: watch.most() == 4)
    watch.close()


def test_a_driver_that_does_not_tell_is_nothing_taken() -> None:
    watch = watched(None)
    assert watch.most() == 0
    watch.close()


def test_a_driver_that_breaks_down_ends_the_watch_alone(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter((5, 9))

    def breaks_at_the_third() -> int:
        found = next(answers, None)
        if found is None:
            raise RuntimeError("CUDA error: device lost")
        return found

    watch = MemoryWatch(breaks_at_the_third)
    watch.start()
    watch._thread.join(20)
    assert "no longer watched" in caplog.text
    assert [watch.most(), watch.most()] == [9, 0]
    watch.close()


def test_a_watch_that_never_started_can_be_closed() -> None:
    MemoryWatch(lambda: 0).close()


def test_each_step_of_a_run_tells_what_others_took_and_no_thread_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(others.OthersInRam, "look", lambda self, ours: 7 * 2**30)
    run = make_run(tmp_path, make_model(tmp_path / "model"), training__steps=3)

    events = events_of(run)

    assert of_kind(events, RunStarted)[0].device_bytes > 0
    assert [step.others_bytes for step in of_kind(events, StepFinished)][-1] == 7 * 2**30
    assert "memory-watch" not in {thread.name for thread in threading.enumerate()}


def test_on_a_card_the_part_of_a_paged_state_that_has_no_room_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The card's own counters are stood in for: 80 GiB, 70 reserved, and another program that takes 9."""
    gib = 2**30
    reserved = {"all": {"peak": 70 * gib, "current": 70 * gib}}
    counters = {"allocated_bytes": {"all": {"peak": 0}}, "reserved_bytes": reserved}
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda _: counters)
    listed = {os.getpid(): 71 * gib, 7: 9 * gib}
    monkeypatch.setattr(others.CardTaken, "look", lambda self: (80 * gib, listed))
    device = Device(torch.device("cuda"), "a card", 80 * gib)
    base = SimpleNamespace(device=device, weight_bytes=0)
    optimizer: Any = SimpleNamespace(parameters={}, paged=True, state_bytes=2 * gib)
    trained: Any = SimpleNamespace(bytes_beside=0)
    meter = MemoryMeter(
        cast(Any, SimpleNamespace(base=base, weight_bytes=base.weight_bytes)), trained, optimizer
    )
    meter.start_watching()
    wait_for(lambda: meter._watch.looks)

    taken, in_ram = meter.beside()
    meter.close()

    assert (taken, in_ram) == (9 * gib, gib + never_estimated("cuda"))
