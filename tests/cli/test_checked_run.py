"""`runs check` says at once what names and sizes tell, where reading every byte takes a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_studio.cli import runs
from qlora_studio.cli.main import parse, run_command
from tests.runs.example import new_run, save


@pytest.fixture
def run(home: Path) -> Path:
    folder = new_run(home)
    save(folder, 2, 4)
    (folder / "checkpoints" / "step-000004" / "trainer.json").unlink()
    return folder


def checked(run: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert run_command(parse(["runs", "check", run.name])) == 0
    return capsys.readouterr().out.splitlines()


def test_a_first_verdict_comes_before_the_bytes_are_read(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "TAKES_A_WHILE", 1000)  # bytes; step 2 has 1,052 and a manifest

    first, *others = checked(run, capsys)

    assert first.startswith(
        "By names and sizes 1 of 2 checkpoints are whole; step 4 is damaged: trainer.json"
    )
    assert others[1:] == ["step 2: sound", "step 4: damaged: trainer.json is missing"]


def test_a_small_run_is_read_without_a_word_before(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(checked(run, capsys)) == 3
