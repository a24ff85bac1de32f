"""A real engine that runs out of memory: its process is gone, and another goes on with less."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pytestqt.qtbot import QtBot

from qlora_studio.protocol import events
from qlora_studio.protocol.child import Child
from qlora_studio.protocol.commands import EngineCommand
from qlora_studio.protocol.events import EngineEvent
from qlora_studio.protocol.lines import COMMANDS, EVENTS
from qlora_studio.runs.folder import open_run
from qlora_studio.state.engine import EngineState
from tests.engine.tiny import make_model, make_run

ROOT = Path(__file__).parents[2]
# The engine on a device that has no room for a batch of more than 40 tokens, from its third step on.
ENGINE = """
import logging, os, sys
sys.path[:0] = sys.argv[1:]
import torch
from qlora_studio.engine import __main__, objective
real, batches = objective.learned_loss, []
def learned_loss(model, batch, *others):
    if not torch.is_grad_enabled():
        return real(model, batch, *others)  # an evaluation has room
    batches.append(batch)
    if len(batches) > 4 and batch.input_ids.shape[1] > 40:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total")
    return real(model, batch, *others)
objective.learned_loss = learned_loss
status = __main__.main()
logging.shutdown()
os._exit(status)
"""


class SmallEngine(Child[EngineCommand, EngineEvent]):
    """The engine's own process, but for the room that it has."""

    def __init__(self) -> None:
        super().__init__("qlora_studio.errors", COMMANDS, EVENTS)  # a module that does nothing, and ends
        self._process.communicate()
        self._process = subprocess.Popen(
            [sys.executable, "-c", ENGINE, str(ROOT), str(ROOT / "kernels")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("ab"),
        )


@pytest.mark.fault(17)
@pytest.mark.slow
def test_after_out_of_memory_another_process_goes_on_with_half_the_rows(  # R14
    home: Path, monkeypatch: pytest.MonkeyPatch, qtbot: QtBot
) -> None:
    monkeypatch.setattr("qlora_studio.client.engine_thread.start_engine", SmallEngine)
    run = make_run(home, make_model(home / "model"), training__steps=6)
    engine = EngineState()
    heard: list[EngineEvent] = []
    engine.heard.connect(heard.append)

    def ends(ways: tuple[str, ...], kind: type[EngineEvent]) -> int:
        engine.train(run, ways=ways)  # type: ignore[arg-type]
        qtbot.waitUntil(lambda: engine._thread is not None and engine._thread.pid is not None, timeout=30_000)
        pid = engine._thread.pid if engine._thread else None
        qtbot.waitUntil(lambda: isinstance(heard[-1] if heard else None, kind), timeout=120_000)
        assert pid is not None
        return pid

    try:
        first = ends((), events.RunFailed)
        assert open_run(run).state.ways == ("recompute", "half_rows")
        qtbot.waitUntil(lambda: not psutil.pid_exists(first), timeout=30_000)
        assert "ran out of memory" in engine.words
        second = ends(("half_rows",), events.RunFinished)
        assert (second != first, open_run(run).state.state) == (True, "finished")
    finally:
        engine.close()
