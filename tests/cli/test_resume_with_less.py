"""`resume RUN --with WAY`: the choice reaches reader and engine, and a failure says what there is."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.cli import training
from qlora_studio.cli.main import parse, run_command
from qlora_studio.protocol import commands, events, reading
from qlora_studio.runs.less_memory import LessMemory, write_less_memory
from tests.ui.example_runs import Example, make_run


class Children:
    """A reader that agrees, and an engine that tells what a test gives it."""

    def __init__(self, end: Any) -> None:
        self.end = end
        self.asked: list[dict[str, Any]] = []
        self.said: list[commands.EngineCommand] = []

    def __call__(self, told: Any) -> Children:
        return self

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None: ...

    def ask(self, answer: Any, request: Any, **fields: Any) -> reading.ResumeReady:
        self.asked.append(fields)
        return reading.ResumeReady(id=1, run=fields["run"], step=300)

    def say(self, command: commands.EngineCommand) -> None:
        self.said.append(command)

    def expect_training(self) -> None:
        assert not self.asked, "it gets ready while the reader looks at the run"
        self.said.append(commands.ExpectTraining())

    def events(self) -> Any:
        return iter([self.end])

    def stopped_by_ctrl_c(self, asked: Any) -> Any:
        return nullcontext(lambda: False)


@pytest.fixture
def run(home: Path) -> Path:
    return make_run(
        home / "runs", Example(steps=300, evaluate_every=100, end="failed", cause="out_of_memory")
    )


def resumed(monkeypatch: pytest.MonkeyPatch, end: Any, *words: str) -> tuple[int, Children]:
    children = Children(end)
    monkeypatch.setattr(training, "Reader", children)
    monkeypatch.setattr(training, "Engine", children)
    return run_command(parse(["resume", *words])), children


def test_each_way_that_was_chosen_is_asked_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # R14
    end = events.RunFinished(run=str(run), step=400, adapter=None, state="finished")
    status, children = resumed(monkeypatch, end, str(run), "--with", "half_rows", "--with", "recompute")
    assert status == 0
    assert children.asked == [{"run": str(run), "ways": ("half_rows", "recompute")}]
    trained = commands.Train(run=str(run), ways=("half_rows", "recompute"))
    assert children.said == [commands.ExpectTraining(), trained]


def test_a_way_that_there_is_not_is_refused_by_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["resume", str(run), "--with", "less_of_everything"])
    assert "less_of_everything" in capsys.readouterr().err


def test_an_out_of_memory_says_how_to_go_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = events.Problem("The machine ran out of memory at step 301.", "Resume it with 2 rows at once.")
    end = events.RunFailed(
        error=problem, run=str(run), step=300, cause="out_of_memory", ways=("recompute", "half_rows")
    )
    status, _ = resumed(monkeypatch, end, str(run))
    said = " ".join(capsys.readouterr().err.split())
    assert status != 0
    assert "Resume it with 2 rows at once." in said
    assert f"resume {run} --with one of: recompute half_rows" in said


def test_a_full_disk_says_how_to_go_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # R9
    problem = events.Problem("Could not save step 301.", "Free some space there, then continue.")
    end = events.RunFailed(error=problem, run=str(run), step=300, cause="disk")
    status, _ = resumed(monkeypatch, end, str(run))
    assert status != 0
    assert f"then continue. To go on: qlora-studio resume {run}" in " ".join(capsys.readouterr().err.split())


def test_runs_tells_what_a_run_does_to_take_less(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_less_memory(run, LessMemory(rows_at_once=2, left_out=(11,)))
    assert run_command(parse(["runs", str(run)])) == 0
    told = capsys.readouterr().out
    assert "to take less memory: 2 rows at once instead of 4; an update has as many as before." in told
    assert "to take less memory: 1 row is left out: 12." in told
