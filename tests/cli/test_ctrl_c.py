"""Ctrl+C in a terminal: 130 and one word, whatever is going on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qlora_studio import __main__
from qlora_studio.cli import children
from qlora_studio.protocol import commands, events


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
