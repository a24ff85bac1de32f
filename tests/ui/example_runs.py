"""Run folders as an engine leaves them, made in a moment: for pages that show runs, and pictures."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.protocol.events import (
    CheckpointSaved,
    EngineEvent,
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
from qlora_studio.runs.metrics import METRICS_FILE
from qlora_studio.runs.notes import Notes, write_notes
from qlora_studio.runs.run_record import Prepared, RunRecord
from qlora_studio.runs.run_state import RunState, State, write_state
from qlora_studio.runs.samples import SAMPLES_FILE

if TYPE_CHECKING:
    from tests.ui.silent import Silent

CREATED = 1_795_000_000.0
GIB = 2**30
PROMPTS = {
    "My battery shows two bars after a full charge. Order 48213.": (
        "Hello, I am sorry to hear that. Please contact support for further assistance with your battery. "
        "If it still shows two bars, you can return it.",
        "Hello, thanks for the order number. Two bars after a full charge usually means one cell group is "
        "resting low. Please charge once more overnight with the display off. If it still shows two bars, "
        "reply here and we send a replacement pack.",
    ),
    "Can I still change the delivery address?": (
        "You can change the delivery address until the parcel is sent. Go to settings, choose the order and "
        "press the button.",
        "You can change the delivery address until the parcel leaves our warehouse. Open Orders, choose the "
        "order and press Edit address.",
    ),
    "Which train goes to Ghent tonight?": (
        "I can only help with bikes and orders. For train tickets please ask your local operator.",
        "I can only help with bikes and orders. For train tickets please ask your local operator.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Example:
    """A run to be made. steps: so far; end: the state it is in."""

    name: str = "support-llama8b-r64"
    model: str = "Llama-3.1-8B"
    steps: int = 2251
    total_steps: int = 3410
    evaluate_every: int = 200
    end: State = "running"
    cause: str = ""
    message: str = ""
    hint: str = ""
    ways: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    device: str = "cuda"
    loss: float = 0.9
    nan_at: tuple[int, ...] = ()
    spikes: tuple[int, ...] = (586, 1317, 1962)
    tags: tuple[str, ...] = ("support",)
    changes: dict[str, object] = field(default_factory=dict)
    checkpoints: bool = True
    device_bytes: int = 0
    others_gib: dict[int, float] = field(default_factory=dict)  # from a step on
    in_ram_gib: dict[int, float] = field(default_factory=dict)  # from a step on
    reserved_gib: float = 0.0  # that torch holds on to, at least
    letters: int = 0  # that each evaluation asks for; 0: none are counted


TRAINING = Example(steps=0, total_steps=400, spikes=())  # before its first step


def make_run(runs_dir: Path, example: Example) -> Path:
    """The whole folder."""
    config = with_changes(
        RunConfig(), {"training.epochs": 3.0, "model.path": f"/models/{example.model}", **example.changes}
    )
    record = RunRecord(
        name=example.name,
        created=CREATED + hash_of(example.name),
        config=config,
        model_name=example.model,
        device=example.device,
        prepared=Prepared(steps=example.total_steps, train_rows=17_300, validation_rows=911),
        promise_bytes={"weights": int(5.5 * GIB), "activations": int(15 * GIB), "other": int(1.2 * GIB)},
    )
    folder = create_run(runs_dir, record)
    with (folder / METRICS_FILE).open("wb") as metrics:
        metrics.writelines(map(EVENTS.encode, run_events(folder, example)))
    with (folder / SAMPLES_FILE).open("wb") as samples:
        samples.writelines(map(EVENTS.encode, sample_events(example)))
    if example.checkpoints and example.steps:
        save_checkpoint(folder, example.steps // 100 * 100 or example.steps, _write_tensors)
    if example.end in ("finished", "stopped"):
        (folder / ("model" if config.trains_all else "adapter")).mkdir()
    if example.tags:
        write_notes(folder, Notes(tags=example.tags))
    write_state(folder, _state(example))
    return folder


def run_events(folder: Path, example: Example) -> Iterator[EngineEvent]:
    """As the engine tells them, from the start to the end."""
    yield RunStarted(
        run=str(folder),
        step=0,
        total_steps=example.total_steps,
        resumed=False,
        time=CREATED,
        device_bytes=example.device_bytes,
    )
    for number in range(1, example.steps + 1):
        yield step_event(number, example)
        if number % example.evaluate_every == 0:
            yield _evaluation(number, example)
            yield CheckpointSaved(step=number, path=f"checkpoints/step-{number:06d}", time=CREATED)
    if example.end in ("finished", "stopped", "paused") and not example.cause:
        yield RunFinished(run=str(folder), step=example.steps, adapter="adapter", state=example.end)
    elif example.end == "failed":
        problem = Problem(example.message, example.hint)
        yield RunFailed(
            error=problem,
            run=str(folder),
            step=example.steps,
            cause=example.cause,
            ways=example.ways,
            rows=example.rows,
        )


def step_event(number: int, example: Example) -> StepFinished:
    """One update: the same for the same number."""
    noise = random.Random(number)
    bad = number in example.nan_at
    loss = example.loss + 0.9 * math.exp(-number / 500) + noise.gauss(0, 0.05)
    gib = {"weights": 5.5, "adapter": 1.2, "optimizer": 1.3, "activations": 9.5, "logits": 1.4, "other": 0.8}
    if number in example.spikes:
        gib["activations"] += 11.0
    gib["logits"] += noise.uniform(-0.4, 0.2)
    gib["other"] += max(0.0, example.reserved_gib - sum(gib.values()))
    return StepFinished(
        step=number,
        loss=None if bad else loss,
        learning_rate=2e-4 * min(1.0, number / 60),
        grad_norm=None if bad else 0.17 + abs(noise.gauss(0, 0.06)),
        tokens=32_512,
        learned_tokens=12_033,
        tokens_per_second=5_100 - (900 if number % 200 == 0 else 0) + noise.gauss(0, 40),
        learned_tokens_per_second=4_690 + noise.gauss(0, 40),
        rows=(number, number + 1),
        memory={part: int(amount * GIB) for part, amount in gib.items()},
        epoch=number / example.total_steps * 3,
        elapsed_s=1.6 * number,
        time=CREATED + 1.6 * number,
        non_finite="nan" if bad else None,
        others_bytes=_since(number, example.others_gib),
        in_ram_bytes=_since(number, example.in_ram_gib),
    )


def _since(number: int, gib: dict[int, float]) -> int:
    return int(GIB * next((size for step, size in reversed(gib.items()) if number >= step), 0.0))


def hear_steps(silent: Silent, first: int, last: int) -> None:
    """The engine that trains `TRAINING` makes these."""
    for number in range(first, last + 1):
        silent.hear(step_event(number, TRAINING))


def sample_events(example: Example) -> Iterator[SampleReady]:
    """The first half of the checkpoints answers as the base does, the second as it learned."""
    at = [number for number in range(1, example.steps + 1) if number % example.evaluate_every == 0]
    for place, number in enumerate(at):
        for index, (prompt, replies) in enumerate(PROMPTS.items()):
            reply = replies[place >= len(at) - 1]
            yield SampleReady(step=number, index=index, prompt=prompt, reply=reply, tokens=30, time=CREATED)


def hash_of(name: str) -> int:
    """Runs made in one test began at different seconds."""
    return sum(map(ord, name))


def _evaluation(number: int, example: Example) -> EvaluationFinished:
    loss = example.loss + 0.04 + 0.5 * math.exp(-number / 600)
    return EvaluationFinished(
        step=number,
        loss=loss,
        perplexity=math.exp(loss),
        rows=911,
        learned_tokens=90_000,
        best=True,
        seconds=20.0,
        time=CREATED,
        right=example.letters * 3 // 4 if example.letters else None,
        questions=example.letters,
    )


def _state(example: Example) -> RunState:
    evaluated = example.steps // example.evaluate_every * example.evaluate_every
    loss = _evaluation(evaluated, example).loss if evaluated else None
    return RunState(
        state=example.end,
        step=example.steps,
        total_steps=example.total_steps,
        updated=CREATED + 1.6 * example.steps,
        elapsed_s=1.6 * example.steps,
        loss=example.loss,
        evaluation_loss=loss,
        first_evaluation_loss=1.42 if loss else None,
        best_evaluation_loss=loss,
        best_step=evaluated or None,
        peak_bytes=int(31.4 * GIB) if example.steps else 0,
        tokens_per_second=5_104.0,
        adapter="adapter" if example.end in ("finished", "stopped") else None,
        cause=example.cause,
        message=example.message,
        hint=example.hint,
        ways=example.ways,
        rows=example.rows,
    )


def _write_tensors(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * 50)
    (folder / "optimizer.safetensors").write_bytes(b"moments" * 100)
    (folder / "trainer.json").write_bytes(b"{}")
