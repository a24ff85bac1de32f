"""What the engine writes while a run trains, and what is left of it when it is interrupted."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs.checkpoints import checkpoints, resume_point
from qlora_studio.runs.folder import open_run
from qlora_studio.runs.lock import RunLockedError
from qlora_studio.runs.metrics import read_metrics
from qlora_studio.runs.run_state import RunState
from qlora_studio.runs.run_writer import RunWriter
from qlora_studio.runs.samples import read_samples
from qlora_studio.runs.space import DiskFullError
from tests.faults.disk import KilledError, disk, losing_disk
from tests.runs.example import new_run, sample_line, started, step_line, write_tensors


def _train(run: Path, first: int, last: int) -> None:
    """As the engine does, with a checkpoint every second step."""
    with RunWriter(run) as writer:
        writer.append_event(started(first - 1))
        writer.save_state(RunState(state="running", step=first - 1))
        for step in range(first, last + 1):
            writer.append_event(step_line(step))
            if step % 2 == 0:
                writer.save_checkpoint(step, write_tensors())
                writer.append_sample(sample_line(step))
        writer.write_adapter(write_tensors())
        writer.save_state(RunState(state="finished", step=last))


def test_a_run_leaves_all_that_history_and_charts_need(run: Path) -> None:
    _train(run, 1, 6)
    opened = open_run(run)
    assert (opened.state.state, opened.state.step) == ("finished", 6)
    assert opened.adapter == run / "adapter"
    assert read_metrics(opened.metrics_file).steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert [sample.step for sample in read_samples(opened.samples_file).samples] == [2, 4, 6]
    assert [info.step for info in checkpoints(run)] == [4, 6]


def test_a_second_engine_is_refused_and_the_window_sees_the_first(run: Path) -> None:  # R8
    with RunWriter(run):
        assert open_run(run).locked
        with pytest.raises(RunLockedError):
            RunWriter(run)
    assert not open_run(run).locked


@pytest.mark.fault(1)
def test_a_run_killed_at_any_call_goes_on_from_a_sound_checkpoint(home: Path) -> None:  # R1, R4, R5, R6
    for call in itertools.count(1, 7):  # every seventh: each kind of call is met, in about a hundred runs
        run = new_run(home)
        with disk(call, "kill") as faulty:
            _interrupted(lambda run=run: _train(run, 1, 6))
        measured = read_metrics(run / "metrics.jsonl").steps
        last = int(measured[-1]) if len(measured) else 0
        point = resume_point(run)
        assert point.skipped == ()
        assert last - point.step <= 2  # one checkpoint interval
        assert open_run(run).state.state in ("interrupted", "finished")
        if not faulty.fired:
            break
        _train(run, point.step + 1, 8)
        assert read_metrics(run / "metrics.jsonl").steps.tolist() == list(range(1, 9))
        assert open_run(run).state.state == "finished"
        assert list(run.rglob(".*")) == []  # nothing half done is left
    assert call > 100


@pytest.mark.fault(2)
@pytest.mark.parametrize("share_kept", [0.0, 0.6])
def test_after_a_power_cut_the_metrics_reach_to_the_checkpoint(
    home: Path, tmp_path: Path, share_kept: float
) -> None:  # R1, R5
    for call in itertools.count(1, 11):
        run = new_run(home)
        (graveyard := tmp_path / f"graveyard-{call}").mkdir()
        with losing_disk(call, run, graveyard) as losing:
            _interrupted(lambda run=run: _train(run, 1, 6))
        losing.cut_power(share_kept)
        point = resume_point(run)
        measured = (
            read_metrics(run / "metrics.jsonl").steps.tolist() if (run / "metrics.jsonl").exists() else []
        )
        assert measured[: point.step] == list(range(1, point.step + 1))
        if not losing.fired:
            break
        _train(run, point.step + 1, 8)
        assert read_metrics(run / "metrics.jsonl").steps.tolist() == list(range(1, 9))


@pytest.mark.fault(10)
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "gone"])
def test_any_write_that_fails_is_told_and_the_run_can_go_on(home: Path, fault: str) -> None:  # R9, R10
    for call in itertools.count(1, 7):
        run = new_run(home)
        with disk(call, fault) as faulty:
            _interrupted(lambda run=run: _train(run, 1, 6))
        assert all(info.sound for info in checkpoints(run, verify=True))
        if not faulty.fired:
            break
        _train(run, resume_point(run).step + 1, 8)
        metrics = read_metrics(run / "metrics.jsonl")
        assert metrics.steps.tolist() == list(range(1, 9))
        assert metrics.skipped_lines <= (fault == "gone")  # a disk that is gone can't take back half a line


@pytest.mark.fault(9)
def test_no_room_for_a_line_is_told_with_the_place(run: Path) -> None:  # R9
    with RunWriter(run) as writer:
        with disk(1, "ENOSPC"), pytest.raises(DiskFullError, match="Could not save the metrics") as full:
            writer.append_event(step_line(1))
        assert full.value.folder == run
    assert (run / "metrics.jsonl").read_bytes() == b""


@pytest.mark.fault(1)
def test_the_adapter_is_whole_or_as_it_was(home: Path) -> None:
    for call in itertools.count(1):
        run = new_run(home)
        with RunWriter(run) as writer:
            writer.write_adapter(write_tensors(b"old"))
        with disk(call, "kill") as faulty:
            _interrupted(lambda run=run: _write_adapter(run, b"new"))
        RunWriter(run).close()
        assert (run / "adapter" / "trainer.json").exists()
        assert (run / "adapter" / "adapter_model.safetensors").read_bytes() in (b"old" * 50, b"new" * 50)
        assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []
        if not faulty.fired:
            break


def test_only_what_is_ours_is_tidied_up(run: Path, tmp_path: Path) -> None:  # R11
    (run / ".hidden").mkdir()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "mine").mkdir()
    (run / "checkpoints" / ".staging-old").mkdir()
    (tmp_path / "precious").mkdir()
    (run / "checkpoints" / ".staging-link").symlink_to(tmp_path / "precious")
    (run / ".state.json.0a0b0c0d.tmp").touch()
    RunWriter(run).close()
    left = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
    assert ".hidden" in left
    assert "checkpoints/mine" in left
    assert "checkpoints/.staging-old" not in left
    assert ".state.json.0a0b0c0d.tmp" not in left
    assert (tmp_path / "precious").exists()


@pytest.mark.fault(21)
def test_a_folder_that_is_gone_is_refused_and_not_made(home: Path) -> None:  # R16
    with pytest.raises(StudioError, match="lock can't be opened"):
        RunWriter(home / "runs" / "gone")
    assert not (home / "runs").exists()


def _write_adapter(run: Path, content: bytes) -> None:
    with RunWriter(run) as writer:
        writer.write_adapter(write_tensors(content))


def _interrupted(action) -> None:
    try:
        action()
    except (StudioError, KilledError):
        return
