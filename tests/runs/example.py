"""A small run for the tests: its record, and lines as the engine writes them."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.config.run_config import RunConfig
from qlora_studio.protocol.events import (
    CheckpointSaved,
    EvaluationFinished,
    Problem,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleReady,
    StepFinished,
)
from qlora_studio.protocol.lines import EVENTS
from qlora_studio.runs.checkpoints import save_checkpoint
from qlora_studio.runs.folder import create_run
from qlora_studio.runs.run_record import RunRecord

RECORD = RunRecord(name="gsm8k SmolLM2", created=1_795_000_000.0, config=RunConfig())


def new_run(home: Path) -> Path:
    """A run folder that nobody has trained in yet."""
    return create_run(home / "runs", RECORD)


def write_tensors(content: bytes = b"weights"):
    """What the engine would put into a checkpoint."""

    def write_files(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(content * 50)
        (folder / "optimizer.safetensors").write_bytes(content * 100)
        (folder / "trainer.json").write_bytes(b"{}")

    return write_files


def save(run: Path, *steps: int, content: bytes = b"weights") -> None:
    """A checkpoint of each step."""
    for step in steps:
        save_checkpoint(run, step, write_tensors(content))


def started(step: int = 0, total_steps: int = 100) -> bytes:
    return EVENTS.encode(
        RunStarted(run="run", step=step, total_steps=total_steps, resumed=step > 0, time=1_795_000_000.0)
    )


def step_line(step: int, loss: float | None = 1.5, non_finite: str | None = None, **memory: int) -> bytes:
    return EVENTS.encode(
        StepFinished(
            step=step,
            loss=loss,
            learning_rate=2e-4,
            grad_norm=0.5,
            tokens=1000,
            learned_tokens=400,
            tokens_per_second=500.0,
            learned_tokens_per_second=200.0,
            rows=(step, step + 1),
            memory=memory or {"weights": 100, "optimizer": 50},
            epoch=step / 100,
            elapsed_s=2.0 * step,
            time=1_795_000_000.0 + step,
            non_finite=non_finite,
        )
    )


def evaluation_line(step: int, loss: float) -> bytes:
    return EVENTS.encode(
        EvaluationFinished(
            step=step, loss=loss, perplexity=2.0, rows=5, learned_tokens=50, best=True, seconds=1.0, time=0.0
        )
    )


def checkpoint_line(step: int) -> bytes:
    return EVENTS.encode(CheckpointSaved(step=step, path=f"checkpoints/step-{step:06d}", time=0.0))


def sample_line(step: int, index: int = 0, reply: str = "Paris.") -> bytes:
    return EVENTS.encode(
        SampleReady(step=step, index=index, prompt="Capital of France?", reply=reply, tokens=3, time=0.0)
    )


def finished_line(step: int, state: str = "finished") -> bytes:
    return EVENTS.encode(RunFinished(run="run", step=step, adapter="adapter", state=state))


def failed_line(step: int, cause: str) -> bytes:
    problem = Problem(f"It failed at step {step}.", "Try less.")
    return EVENTS.encode(RunFailed(error=problem, run="run", step=step, cause=cause))
