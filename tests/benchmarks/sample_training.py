"""Runs of the sample model on questions and answers, for benchmarks of what is learned."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from qlora_studio.data.tokenized_row import TokenizedRow
    from qlora_studio.engine.model_holder import ModelHolder
    from qlora_studio.protocol.events import StepFinished

    Rows = tuple[list[TokenizedRow], list[TokenizedRow]]  # to learn from, held out

WARM_UP = 10  # steps that aren't counted


@dataclass(frozen=True)
class Measured:
    """A side. before, after: nats per learned token held out; last: of the last steps' rows."""

    before: float
    after: float
    last: float
    tokens_per_second: float
    notes: tuple[str, ...]
    steps: tuple[StepFinished, ...] = ()


@contextmanager
def own_home() -> Iterator[Path]:
    """What is measured inside isn't remembered for real runs; the sample model is made once."""
    from qlora_studio.config.places import cache_folder

    with tempfile.TemporaryDirectory(prefix="sample-training-") as home:
        os.environ["QLORA_STUDIO_CACHE"] = str(cache_folder())
        os.environ["QLORA_STUDIO_HOME"] = home
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the engine sets it
        yield Path(home)


def trained(
    home: Path,
    model: Path,
    holder: ModelHolder,
    rows: Rows,
    arguments: argparse.Namespace,
    seed: int,
    fp8: bool,
) -> Measured:
    """A run of the engine. Raises: SystemExit where it fails."""
    from qlora_studio.engine.training_job import run_training
    from qlora_studio.engine.wish import Wish
    from qlora_studio.protocol.events import (
        EvaluationFinished,
        ModelLoaded,
        RunFailed,
        RunFinished,
        StepFinished,
    )

    run = _run(home, model, holder, rows, arguments, seed, fp8)
    steps: list[StepFinished] = []
    losses: list[float] = []
    notes: tuple[str, ...] = ()
    for event in run_training(run, holder, lambda: Wish.NOTHING):
        if isinstance(event, RunFailed):
            log = "".join(path.read_text("utf-8")[-3000:] for path in run.glob("**/engine.log"))
            raise SystemExit(f"train failed: {event}\n{log}")
        if isinstance(event, ModelLoaded):
            notes = event.notes
            if fp8 and any("not in fp8" in note for note in notes):
                raise SystemExit(f"nothing to compare: {notes}")
        if isinstance(event, StepFinished):
            steps.append(event)
        if isinstance(event, EvaluationFinished) and event.loss is not None:
            losses.append(event.loss)
        if isinstance(event, RunFinished) and event.first_evaluation_loss is not None:
            losses.insert(0, event.first_evaluation_loss)
    counted = steps[min(WARM_UP, len(steps) - 1) :]
    return Measured(
        losses[0],
        losses[-1],
        statistics.fmean(step.loss or float("nan") for step in counted[-20:]),
        statistics.median(step.tokens_per_second for step in counted),
        notes,
        tuple(steps),
    )


def _run(
    home: Path,
    model: Path,
    holder: ModelHolder,
    rows: Rows,
    arguments: argparse.Namespace,
    seed: int,
    fp8: bool,
) -> Path:
    """Its folder."""
    from tests.engine.tiny import make_run

    learned, held_out = rows
    return make_run(
        home,
        model,
        learned,
        held_out,
        device=holder.device.torch_device.type,
        model__compute_dtype="bfloat16",
        data__seq_len=arguments.seq_len,
        lora__r=arguments.r,
        lora__alpha=16,
        training__seed=seed,
        training__steps=arguments.steps,
        training__batch_size=arguments.rows,
        training__gradient_accumulation=1,
        training__learning_rate=arguments.rate,
        training__schedule="linear",
        training__fp8=fp8,
        checkpoints__every_steps=1_000_000,
        checkpoints__evaluate_every_steps=arguments.steps,
    )


def model_folder(model: str) -> Path:
    from qlora_studio.config.places import sample_model_folder
    from qlora_studio.engine import sample_model

    is_file = model.endswith(".gguf")
    if not is_file and model != "sample":
        return Path(model)
    bundle = sample_model.Bundle(Path(model), None)
    with patch.object(sample_model, "find_bundle", lambda: bundle) if is_file else nullcontext():
        for _ in sample_model.make_sample_model():
            pass
    return sample_model_folder()


def read_rows(folder: Path, arguments: argparse.Namespace) -> Rows:
    """To learn from, and held out: the file's last ones."""
    from qlora_studio.data.conversation import Message, Row
    from qlora_studio.data.row_encoder import EncodedRow, RowEncoder, fit
    from qlora_studio.data.template import find_template
    from qlora_studio.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    template = find_template(folder, tokenizer.special.names)
    assert template is not None, f"{folder} has no chat template"
    encoder = RowEncoder(tokenizer, template, train_on="answers")
    lines = Path(arguments.data).read_text("utf-8").splitlines()
    chats = [
        Row(
            row=row,
            line=row + 1,
            messages=(Message("user", record["question"]), Message("assistant", record["answer"])),
        )
        for row, record in enumerate(map(json.loads, lines))
    ]
    encoded = [one for one in encoder.encode(chats) if isinstance(one, EncodedRow)]
    fitted = [piece for one in encoded for piece in fit(one, arguments.seq_len, "drop").pieces]
    return fitted[: -arguments.held_out], fitted[-arguments.held_out :]


def parsed_arguments(words: str | None, steps: int) -> argparse.Namespace:
    from qlora_studio.config.places import sample_data_file

    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="sample", help="a model folder, or a GGUF file of the sample model"
    )
    parser.add_argument("--data", default=str(sample_data_file()), help="JSON lines: question and answer")
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rows", type=int, default=2, help="packed rows of an update")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--r", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    return parser.parse_args()
