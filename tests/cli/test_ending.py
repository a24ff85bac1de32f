"""A run's command that is ended, or whose engine dies, before anything was saved: the truth, and at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlora_studio.cli import children
from qlora_studio.cli.main import parse, run_command
from qlora_studio.cli.output import Told
from qlora_studio.cli.training import STOPPING, follow_run
from qlora_studio.errors import StudioError
from qlora_studio.protocol import commands, events
from tests.engine.tiny import Wish, events_of, make_model, make_run

READY = events.EngineReady(device="cpu", device_name="", memory_bytes=0, free_bytes=0, versions={})


class Dying:
    """An engine that the system kills while it loads."""

    log = Path("engine.log")

    def heard(self) -> Iterator[events.EngineEvent]:
        yield READY
        yield events.LoadingProgress(done=3, total=40, words="Quantizing some-model")

    def end_in_words(self) -> str:
        return "killed by the system, memory?"

    def say(self, command: commands.EngineCommand) -> None:
        pass

    hang_up = kill = lambda self: None

    def wait(self, seconds: float | None = None) -> int:
        return -9


def told_of_death(monkeypatch: pytest.MonkeyPatch, run: Path) -> str:
    monkeypatch.setattr(children, "start_engine", Dying)
    with pytest.raises(StudioError) as died, children.Engine() as engine:
        follow_run(engine, run, Told(), as_json=False)
    return str(died.value)


def test_an_engine_that_dies_before_a_checkpoint_leaves_nothing_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, make_model(tmp_path / "model"))

    told = told_of_death(monkeypatch, run)

    assert "killed by the system, memory?" in told
    assert f"Nothing was saved yet; `qlora-studio resume {run}` begins at its start." in told
    assert "safe" not in told
    # stderr is no terminal here: what is loaded stands in lines.
    assert capsys.readouterr().out == "Quantizing some-model: 3 of 40\n"


def test_an_engine_that_dies_later_leaves_its_newest_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make_run(tmp_path, make_model(tmp_path / "model"))
    step = events_of(run, Wish.PAUSE, after_step=2)[-1].step

    told = told_of_death(monkeypatch, run)

    assert f"What was saved is safe; `qlora-studio resume {run}` goes on from step {step:,}." in told


def test_sigterm_ends_any_command_as_ctrl_c_does(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse(("runs",))
    arguments.run = lambda _: os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)

    assert run_command(arguments) == 130
    assert capsys.readouterr().err == "stopped\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_while_the_model_loads_ends_with_its_engine(
    tmp_path: Path, number: int
) -> None:
    settings = tmp_path / "run.toml"
    settings.write_text(
        'schema_version = 1\n[model]\npath = "shape:smollm2-135m"\n[data]\npath = "sample"\nseq_len = 64\n'
    )
    words = ["train", str(settings), "--runs-dir", str(tmp_path / "runs")]
    command = subprocess.Popen(
        [sys.executable, "-m", "qlora_studio", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    lines = []
    for line in command.stdout:
        lines.append(line)
        if line.startswith("Quantizing"):
            command.send_signal(number)
            break

    out, err = command.communicate(timeout=60)

    assert (command.returncode, err) == (130, f"{STOPPING}\n")
    assert "loaded" not in out
    assert out.splitlines()[-1].startswith("paused at step 0: ")
