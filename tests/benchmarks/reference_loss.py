"""What is learned beside plain transformers + peft + bitsandbytes: the same adapter, rows, order and rates.

    python -m tests.benchmarks.reference_loss --steps 200

The sample model learns questions and answers (NF4 + DQ), by the engine and by a bare loop over a row at a
time with transformers' own attention, head and loss, and torch's AdamW. Both are measured on the same rows
held out.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.fp8_loss import WARM_UP, Measured, _arguments, _model_folder, _rows, _trained

if TYPE_CHECKING:
    from qlora_studio.data.tokenized_row import TokenizedRow
    from qlora_studio.protocol.events import StepFinished

GOAL = 0.01  # of the reference's loss


def main() -> None:
    arguments = _arguments(__doc__, steps=200)
    from qlora_studio.config.places import cache_folder

    with tempfile.TemporaryDirectory(prefix="reference-loss-") as home:
        os.environ["QLORA_STUDIO_CACHE"] = str(cache_folder())  # the sample model is made once
        os.environ["QLORA_STUDIO_HOME"] = home
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the engine sets it
        _measure(Path(home), arguments)


def _measure(home: Path, arguments: Any) -> None:
    from qlora_studio.engine.device import find_device
    from qlora_studio.engine.model_holder import ModelHolder
    from tests.benchmarks.machine import machine

    model = _model_folder(arguments.model)
    learned, held_out = _rows(model, arguments)
    print(
        f"{machine()}; {len(learned)} rows to learn from, {len(held_out)} held out; {arguments.steps} steps "
        f"of {arguments.rows} x {arguments.seq_len} tokens, r = {arguments.r}, rate {arguments.rate:g}",
        flush=True,
    )
    print(f"{'seed':>4} {'':14} {'before':>8} {'after':>8} {'ratio':>8} {'last steps':>10} {'ratio':>8}")
    within = True
    for seed in arguments.seeds:
        holder = ModelHolder(find_device())
        ours = _trained(home, model, holder, (learned, held_out), arguments, seed, fp8=False)
        holder.let_go()
        theirs = _reference(home, model, (learned, held_out), arguments, seed, ours.steps)
        for name, side in (("ours", ours), ("reference", theirs)):
            print(
                f"{seed:4} {name:14} {side.before:8.4f} {side.after:8.4f} {side.after / theirs.after:8.4f} "
                f"{side.last:10.4f} {side.last / theirs.last:8.4f}",
                *side.notes,
                flush=True,
            )
        within &= abs(ours.after / theirs.after - 1) <= GOAL
    print(f"{'within' if within else 'NOT within'} {GOAL:.0%} of the reference")


def _reference(
    home: Path,
    folder: Path,
    rows: tuple[list[TokenizedRow], list[TokenizedRow]],
    arguments: Any,
    seed: int,
    steps: tuple[StepFinished, ...],
) -> Measured:
    """steps: whose rows and rates are taken"""
    import torch

    from qlora_studio.config.run_config import TrainingConfig
    from qlora_studio.engine.optimizer import BETAS, EPSILON

    learned, held_out = rows
    model = _tuned(home / f"adapter {seed}", folder, arguments.r, seed)
    before = _held_out(model, held_out)
    by_number = {row.row: row for row in learned}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    training = TrainingConfig()
    optimizer = torch.optim.AdamW(weights, betas=BETAS, eps=EPSILON, weight_decay=training.weight_decay)
    model.train()
    losses = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = step.learning_rate
        losses.append(_add_gradients(model, [by_number[number] for number in step.rows]))
        torch.nn.utils.clip_grad_norm_(weights, training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    counted = losses[min(WARM_UP, len(losses) - 1) :]
    after = _held_out(model, held_out)
    return Measured(before, after, statistics.fmean(counted[-20:]), float("nan"), ())


def _tuned(adapter: Path, folder: Path, rank: int, seed: int) -> Any:
    """The base as transformers quantizes it, with the adapter that a run of this seed begins with."""
    import torch

    from qlora_studio.config.run_config import LoraConfig
    from qlora_studio.engine.adapters import AdaptedModel
    from qlora_studio.engine.device import find_device
    from qlora_studio.engine.frozen_weights import Storage
    from qlora_studio.engine.loading import load_base
    from tests.engine.plain_stack import plain_tuned
    from tests.engine.tiny import loaded

    storage = Storage("nf4", True, torch.bfloat16)
    adapted = AdaptedModel(loaded(load_base(str(folder), storage, find_device())))
    adapted.add_new("fresh", LoraConfig(r=rank, alpha=16), seed)
    adapter.mkdir()
    adapted.save("fresh", adapter)
    return plain_tuned(folder, adapter, storage)


def _add_gradients(model: Any, rows: list[TokenizedRow]) -> float:
    """Of the loss, nats per learned token of all rows, which it returns."""
    count = sum(row.learned_tokens for row in rows)
    total = 0.0
    for row in rows:
        share = _loss(model, row) * (row.learned_tokens / count)
        share.backward()
        total += float(share.detach())
    return total


def _held_out(model: Any, rows: list[TokenizedRow]) -> float:
    """Nats per learned token."""
    import torch

    model.eval()
    with torch.no_grad():
        nats = sum(float(_loss(model, row)) * row.learned_tokens for row in rows)
    return nats / sum(row.learned_tokens for row in rows)


def _loss(model: Any, row: TokenizedRow) -> Any:
    """float32 []: nats per learned token."""
    import torch

    ids = torch.tensor(row.ids, dtype=torch.long)[None]
    labels = torch.where(torch.tensor(row.weights)[None] > 0, ids, -100)
    return model(input_ids=ids.to(model.device), labels=labels.to(model.device)).loss.float()


if __name__ == "__main__":
    main()
