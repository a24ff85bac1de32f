"""What `runs check` tells, by the names scripts rely on."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs.check import check_run
from qlora_studio.runs.run_state import RunState, write_state
from tests.runs.example import sample_line, save, step_line


def test_every_checkpoint_is_verified_and_what_is_broken_named(run: Path) -> None:  # R2
    save(run, 100, 200)
    (run / "checkpoints" / ".staging-step-000300-aa").mkdir()
    (run / "checkpoints" / "step-000200" / "optimizer.safetensors").unlink()
    write_state(run, RunState(state="paused", step=200))
    assert json.loads(msgspec.json.encode(check_run(run))) == {
        "run": str(run),
        "state": "paused",
        "step": 200,
        "checkpoints": [
            {"step": 100, "sound": True, "reason": ""},
            {"step": 200, "sound": False, "reason": "optimizer.safetensors is missing"},
        ],
        "warnings": [],
    }


def test_broken_lines_and_a_newer_state_are_warnings(run: Path) -> None:  # R5, R15
    (run / "metrics.jsonl").write_bytes(step_line(1) + step_line(2)[:-9])
    (run / "samples.jsonl").write_bytes(b"{}\n[]\n" + sample_line(1))
    (run / "state.json").write_bytes(b'{"schema_version": 9}')
    assert check_run(run).warnings == (
        "state.json is of a newer version; it was not used",
        "metrics.jsonl: 1 line skipped",
        "samples.jsonl: 2 lines skipped",
    )


def test_a_check_changes_nothing(run: Path) -> None:
    save(run, 100)
    (run / "checkpoints" / ".staging-step-000300-aa").mkdir()
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    check_run(run)
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


def test_a_record_that_cannot_be_read_is_named(run: Path) -> None:
    (run / "run.json").write_bytes(b"")
    with pytest.raises(StudioError, match=r"run\.json is damaged"):
        check_run(run)
