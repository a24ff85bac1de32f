"""How a run stands, with and without its state file."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_studio.runs.folder import open_run
from qlora_studio.runs.run_state import RunState, write_state
from qlora_studio.runs.run_writer import RunWriter
from tests.runs.example import evaluation_line, failed_line, finished_line, save, started, step_line


def test_running_with_nobody_at_it_means_interrupted(run: Path) -> None:  # R6, R8
    write_state(run, RunState(state="running", step=7))
    assert open_run(run).state.state == "interrupted"
    with RunWriter(run):
        assert open_run(run).state.state == "running"
        assert open_run(run).locked
    assert open_run(run).state.state == "interrupted"


@pytest.mark.parametrize("state", ["paused", "stopped", "finished", "failed"])
def test_a_run_that_ended_in_order_stands_as_it_said(run: Path, state: str) -> None:
    write_state(run, RunState(state=state, step=7))
    assert open_run(run).state.state == state


@pytest.mark.fault(12)
def test_without_a_state_file_the_run_is_rebuilt(run: Path) -> None:  # R6
    (run / "metrics.jsonl").write_bytes(
        started(total_steps=9)
        + evaluation_line(0, 3.0)
        + step_line(1, 2.5, weights=100, activations=30)
        + step_line(2, 2.0, weights=100, activations=20)
        + evaluation_line(2, 1.0)
        + step_line(3, None, "nan")
        + evaluation_line(3, 2.0)
        + b'{"torn'
    )
    save(run, 2)
    (run / "adapter").mkdir()
    state = open_run(run).state
    assert (state.state, state.step, state.total_steps) == ("interrupted", 3, 9)
    assert (state.first_evaluation_loss, state.evaluation_loss) == (3.0, 2.0)
    assert (state.best_evaluation_loss, state.best_step) == (1.0, 2)
    assert (state.peak_bytes, state.elapsed_s, state.loss) == (150, 6.0, None)
    assert state.adapter == "adapter"


@pytest.mark.parametrize("word", ["finished", "stopped", "paused"])
def test_the_end_of_a_run_is_found_in_its_metrics(run: Path, word: str) -> None:  # R6
    (run / "metrics.jsonl").write_bytes(started() + step_line(1) + finished_line(1, word))
    assert open_run(run).state.state == word


def test_the_cause_of_a_failure_is_found_in_the_metrics(run: Path) -> None:  # R6, R14
    (run / "metrics.jsonl").write_bytes(started() + step_line(1) + failed_line(1, "out_of_memory"))
    state = open_run(run).state
    assert (state.state, state.cause) == ("failed", "out_of_memory")
    assert (state.message, state.hint) == ("It failed at step 1.", "Try less.")


def test_a_run_whose_disk_was_full_is_paused(run: Path) -> None:  # R6, R9
    (run / "metrics.jsonl").write_bytes(started() + step_line(1) + failed_line(1, "disk"))
    assert open_run(run).state.state == "paused"


def test_checkpoints_tell_the_step_where_metrics_are_gone(run: Path) -> None:  # R6
    save(run, 100, 200)
    (run / "checkpoints" / "step-000200" / "trainer.json").unlink()
    assert open_run(run).state.step == 100


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (b"", "state.json is damaged; it was not used"),
        (b'{"schema_version": 1, "state": "running"', "state.json is damaged; it was not used"),
        (b'{"schema_version": 1, "state": "dancing", "step": 1}', "state.json is damaged; it was not used"),
        (
            b'{"schema_version": 1, "state": "paused", "step": ' + b"9" * 4000 + b"}",
            "state.json is damaged; it was not used",
        ),
        (b"[" * 100_000, "state.json is damaged; it was not used"),
        (b" " * 1_000_001, "state.json can't be read: it is larger than 1,000,000 bytes"),
        (b'{"schema_version": 2, "state": "asleep"}', "state.json is of a newer version; it was not used"),
    ],
    ids=["empty", "cut", "unknown state", "endless step", "deep", "huge", "newer"],
)
def test_a_state_file_that_tells_nothing_is_said_and_replaced_by_what_is_known(
    run: Path, content: bytes, warning: str
) -> None:  # R6, R15
    (run / "state.json").write_bytes(content)
    (run / "metrics.jsonl").write_bytes(step_line(5))
    opened = open_run(run)
    assert opened.warnings == (warning,)
    assert (opened.state.state, opened.state.step) == ("interrupted", 5)
    assert (run / "state.json").read_bytes() == content


@pytest.mark.fault(15)
def test_a_state_file_from_years_ahead_changes_no_order(run: Path) -> None:  # R13
    write_state(run, RunState(state="paused", step=7, updated=9e9))
    assert open_run(run).state.step == 7
