"""How a run stands: from its state file, and where that can't tell, from its checkpoints and metrics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from qlora_studio.errors import StudioError
from qlora_studio.runs.checkpoints import checkpoints
from qlora_studio.runs.durable import is_real_folder
from qlora_studio.runs.lock import is_locked
from qlora_studio.runs.metric_lines import FailedLine, FinishedLine
from qlora_studio.runs.metrics import METRICS_FILE, Metrics, read_metrics
from qlora_studio.runs.run_record import RunRecord
from qlora_studio.runs.run_state import RunState, State, read_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

ADAPTER_FOLDER = "adapter"
ENDED = ("finished", "stopped")  # states in which what the run made is newer than its checkpoints
MODEL_FOLDER = "model"  # what full finetuning leaves in its place


def standing_of(folder: Path, record: RunRecord) -> tuple[RunState, tuple[str, ...]]:
    """The state, and what was wrong with its files. Running with nobody at it means interrupted (R6)."""
    state, warnings = _last_known(folder, record)
    if state.state == "running" and not is_locked(folder):
        state, warnings = _last_known(folder, record)  # it may have said that it ended just before
        if state.state == "running":
            state = msgspec.structs.replace(state, state="interrupted")
    return state, warnings


def _last_known(folder: Path, record: RunRecord) -> tuple[RunState, tuple[str, ...]]:
    read = read_state(folder)
    if read.state is not None:
        return read.state, ()
    warnings = [read.warning] if read.warning else []
    try:
        return _rebuilt(folder, record, read_metrics(folder / METRICS_FILE)), tuple(warnings)
    except StudioError as error:
        return _rebuilt(folder, record, Metrics()), (*warnings, error.message)


def _rebuilt(folder: Path, record: RunRecord, metrics: Metrics) -> RunState:
    saved = max((info.step for info in checkpoints(folder) if not info.reason), default=0)
    measured = int(metrics.steps[-1]) if len(metrics) else 0
    losses = [(line.loss, line.step) for line in metrics.evaluations if line.loss is not None]
    best_loss, best_step = min(losses, default=(None, None))
    failed = metrics.ended if isinstance(metrics.ended, FailedLine) else FailedLine(cause="")
    return RunState(
        state=_state_word(metrics.ended),
        step=max(saved, measured),
        total_steps=metrics.total_steps or record.prepared.steps,
        elapsed_s=_last(metrics.elapsed_s) or 0.0,
        loss=_last(metrics.loss),
        evaluation_loss=losses[-1][0] if losses else None,
        first_evaluation_loss=losses[0][0] if losses else None,
        best_evaluation_loss=best_loss,
        best_step=best_step,
        peak_bytes=int(metrics.memory_total.max()) if len(metrics) else 0,
        tokens_per_second=_last(metrics.tokens_per_second) or 0.0,
        adapter=ADAPTER_FOLDER if is_real_folder(folder / ADAPTER_FOLDER) else None,
        cause=failed.cause,
        message=failed.error.message,
        hint=failed.error.hint,
        ways=failed.ways,
        rows=failed.rows,
    )


def _state_word(ended: FinishedLine | FailedLine | None) -> State:
    if isinstance(ended, FailedLine):
        return "paused" if ended.cause == "disk" else "failed"  # it goes on once there is room (R9)
    if isinstance(ended, FinishedLine) and ended.state in ("finished", "stopped", "paused"):
        return cast(State, ended.state)
    return "running"


def _last(values: NDArray[Any]) -> float | None:
    if not len(values) or not math.isfinite(values[-1]):
        return None
    return float(values[-1])
