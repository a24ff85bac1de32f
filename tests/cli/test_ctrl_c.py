"""Ctrl+C in a terminal: 130 and one word, whatever is going on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlora_studio import __main__
from qlora_studio.cli import children
from qlora_studio.cli.output import Told
from qlora_studio.cli.training import follow_run
from qlora_studio.config.run_config import DataConfig
from qlora_studio.protocol import commands, events, reading


class Ending:
    """An engine that doesn't end by itself; notes how long it was waited for before it was killed."""

    def __init__(self) -> None:
        self.waited: list[float | None] = []
        self.killed = False

    def heard(self) -> Iterator[events.EngineEvent]:
        yield events.EngineReady(device="cpu", device_name="", memory_bytes=0, free_bytes=0, versions={})

    def say(self, command: commands.EngineCommand) -> None:
        pass

    def hang_up(self) -> None:
        pass

    def wait(self, seconds: float | None = None) -> int | None:
        self.waited.append(seconds)
        return 0 if self.killed else None

    def kill(self) -> None:
        self.killed = True


def test_ctrl_c_while_modules_are_loaded_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qlora_studio.cli.main.build_parser", interrupted)

    assert __main__.main() == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    ("command", "patience_s"),
    [(commands.Train(run="run"), 60.0), (commands.UnloadModel(), 3.0)],
    ids=["saving", "nothing to save"],
)
def test_an_engine_is_given_the_time_that_saving_takes(
    monkeypatch: pytest.MonkeyPatch, command: commands.EngineCommand, patience_s: float
) -> None:
    child = Ending()
    monkeypatch.setattr(children, "start_engine", lambda: child)

    with children.Engine() as engine:
        engine.say(command)

    assert child.waited == [patience_s, None]


def test_an_engine_that_only_gets_ready_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Ending()
    monkeypatch.setattr(children, "start_engine", lambda: child)

    with children.Engine() as engine:
        engine.expect_training()

    assert child.killed


@pytest.mark.parametrize(("state", "status"), [("finished", 0), ("stopped", 130)])
def test_a_run_that_finished_all_the_same_is_a_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, status: int
) -> None:
    class Running(Ending):
        def heard(self) -> Iterator[events.EngineEvent]:
            yield from super().heard()
            os.kill(os.getpid(), signal.SIGINT)
            yield events.RunFinished(run=str(tmp_path), step=30, adapter=None, state=state)

    monkeypatch.setattr(children, "start_engine", Running)
    with children.Engine() as engine:
        assert follow_run(engine, tmp_path, Told(quiet=True), as_json=False)[0] == status


def test_an_import_that_is_interrupted_leaves_nothing_half_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QLORA_STUDIO_HOME", str(tmp_path / "home"))
    file = tmp_path / "many.jsonl"
    file.write_text("".join(f'{{"prompt": "q {n}", "completion": "a {n}"}}\n' for n in range(300_000)))

    def told(words: str, done: int, total: int) -> None:
        if list((tmp_path / "home").rglob(".importing-*")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), children.Reader(told) as reader:
        reader.ask(reading.DataImported, reading.ImportData, data=DataConfig(path=str(file)))

    assert list((tmp_path / "home").rglob(".importing-*")) == []
