"""What a run tells, put into its folder: `metrics.jsonl`, `samples.jsonl`, and where it stands."""

from __future__ import annotations

import time
from typing import cast

from qlora_studio.engine.trainer_state import Position
from qlora_studio.protocol.events import (
    CheckpointSaved,
    EngineEvent,
    EvaluationFinished,
    RewardsMeasured,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleReady,
    StepFinished,
)
from qlora_studio.protocol.lines import EVENTS
from qlora_studio.runs.run_state import RunState, State, read_state
from qlora_studio.runs.run_writer import RunWriter

_KEPT = (
    RunStarted,
    StepFinished,
    RewardsMeasured,
    EvaluationFinished,
    CheckpointSaved,
    RunFinished,
    RunFailed,
)
_STATE_S = 1.0  # the state is a cache: at most once a second


class RunLog:
    """Writes each event as the very line that is told to the window."""

    def __init__(self, writer: RunWriter, position: Position, total_steps: int) -> None:
        self._writer = writer
        self._position = position
        self._total_steps = total_steps
        self._written = -_STATE_S
        before = read_state(writer.folder).state  # of an earlier sitting
        self._peak_bytes = before.peak_bytes if before else 0
        self._tokens_per_second = before.tokens_per_second if before else 0.0

    def record(self, event: EngineEvent) -> None:
        """Raises: StudioError, DiskFullError."""
        if isinstance(event, SampleReady):
            self._writer.append_sample(EVENTS.encode(event))
        elif isinstance(event, _KEPT):
            self._writer.append_event(EVENTS.encode(event))
            self._write_state(event)

    def _write_state(self, event: EngineEvent) -> None:
        if isinstance(event, StepFinished):
            self._peak_bytes = max(self._peak_bytes, sum(event.memory.values()))
            self._tokens_per_second = event.tokens_per_second
        if isinstance(event, RunFinished):
            self._save(cast(State, event.state), adapter="adapter" if event.adapter else None)
        elif isinstance(event, RunFailed):
            # A full disk only pauses a run: it goes on once there is room (R9).
            state: State = "paused" if event.cause == "disk" else "failed"
            self._save(state, failed=event)
        elif time.monotonic() - self._written >= _STATE_S:
            self._save("running")

    def _save(
        self,
        state: State,
        adapter: str | None = None,
        failed: RunFailed | None = None,
    ) -> None:
        position = self._position
        self._writer.save_state(
            RunState(
                state=state,
                step=position.step,
                total_steps=self._total_steps,
                updated=time.time(),
                elapsed_s=position.elapsed_s,
                loss=position.loss,
                evaluation_loss=position.evaluation_loss,
                first_evaluation_loss=position.first_evaluation_loss,
                best_evaluation_loss=position.best_evaluation_loss,
                best_step=position.best_step,
                peak_bytes=self._peak_bytes,
                tokens_per_second=self._tokens_per_second,
                adapter=adapter,
                cause=failed.cause if failed else "",
                message=failed.error.message if failed else "",
                hint=failed.error.hint if failed else "",
                ways=failed.ways if failed else (),
                rows=failed.rows if failed else (),
            )
        )
        self._written = time.monotonic()
