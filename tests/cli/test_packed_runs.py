"""`runs pack` and `runs unpack` in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from qlora_studio.cli.main import parse, run_command
from qlora_studio.runs.folder import create_run
from qlora_studio.runs.run_record import Prepared
from tests.runs.example import RECORD, save


@pytest.fixture
def run(home: Path) -> Path:
    (home / "rows").mkdir(parents=True)
    record = msgspec.structs.replace(RECORD, prepared=Prepared(folder=str(home / "rows")))
    run = create_run(home / "runs", record)
    save(run, 2)
    return run


def test_a_run_is_packed_and_unpacked_by_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, elsewhere = str(tmp_path / "a.run.tar"), str(tmp_path / "elsewhere")

    assert run_command(parse(["runs", "pack", run.name, "--out", file, "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["file"] == file
    assert run_command(parse(["runs", "unpack", file, "--runs-dir", elsewhere, "--json"])) == 0
    unpacked = json.loads(capsys.readouterr().out)

    assert unpacked["step"] == 2
    assert run_command(parse(["runs", "check", unpacked["run"]])) == 0
    assert "step 2: sound" in capsys.readouterr().out


def test_a_file_that_is_no_packed_run_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "photo\x1b[2J.tar"
    file.write_bytes(b"x" * 5000)

    assert run_command(parse(["runs", "unpack", str(file)])) == 2

    told = capsys.readouterr().err
    assert "is no packed run that can be used" in told
    assert "\x1b" not in told
