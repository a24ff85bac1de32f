"""What a terminal is told while something goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from qlora_studio.cli import output
from qlora_studio.cli.output import Told
from qlora_studio.cli.training import _Lines
from qlora_studio.protocol import events


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(
        output,
        "Console",
        lambda **_: Console(file=written, force_terminal=True, width=120, color_system=None),
    )
    return written


def test_a_run_tells_its_evaluation_and_its_save_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    lines = _Lines(lambda *what: told.append(what))  # type: ignore[arg-type]

    lines.tell(events.RunStarted(run="r", step=0, total_steps=40, resumed=False, time=0.0))
    lines.tell(events.EvaluationProgress(step=0, done=3, total=15))
    lines.tell(events.Saving(step=20))

    assert told == [
        ("Step 0 of 40", 0, 40),
        ("Evaluating step 0, rows", 3, 15),
        ("Saving step 20", 0, 0),
    ]


def test_the_time_left_of_one_thing_is_not_that_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    with Told() as told:
        told("Quantizing", 0, 272)
        told("Quantizing", 272, 272)
        told("loss 2.0", 1, 40)
        task = told._progress.tasks[0]

    assert (task.completed, task.total, task.speed) == (1, 40, None)


def test_where_stderr_is_no_terminal_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with Told() as told:
        told("Quantizing", 1, 2)

    assert capsys.readouterr().err == ""
