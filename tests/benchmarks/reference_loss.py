"""What is learned beside plain transformers + peft + bitsandbytes: the same adapter, rows, order and rates.

    python -m tests.benchmarks.reference_loss --steps 200

The sample model learns questions and answers (NF4 + DQ), by the engine and by a bare loop over a row at a
time with transformers' own attention, head and loss, and torch's AdamW. Both are measured on the same rows
held out.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.sample_training import (
    WARM_UP,
    Measured,
    model_folder,
    own_home,
    parsed_arguments,
    read_rows,
    trained,
)

if TYPE_CHECKING:
    from qlora_studio.protocol.events import StepFinished
    from tests.benchmarks.sample_training import Rows

GOAL = 0.01  # of the reference's loss


def main() -> None:
    arguments = parsed_arguments(__doc__, steps=200)
    with own_home() as home:
        _measure(home, arguments)


def _measure(home: Path, arguments: Any) -> None:
    from qlora_studio.engine.device import find_device
    from qlora_studio.engine.model_holder import ModelHolder
    from tests.benchmarks.machine import machine

    model = model_folder(arguments.model)
    learned, held_out = read_rows(model, arguments)
    print(
        f"{machine()}; {len(learned)} rows to learn from, {len(held_out)} held out; {arguments.steps} steps "
        f"of {arguments.rows} x {arguments.seq_len} tokens, r = {arguments.r}, rate {arguments.rate:g}",
        flush=True,
    )
    print(f"{'seed':>4} {'':14} {'before':>8} {'after':>8} {'ratio':>8} {'last steps':>10} {'ratio':>8}")
    within = True
    for seed in arguments.seeds:
        holder = ModelHolder(find_device())
        ours = trained(home, model, holder, (learned, held_out), arguments, seed, fp8=False)
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
    rows: Rows,
    arguments: Any,
    seed: int,
    steps: tuple[StepFinished, ...],
) -> Measured:
    """steps: whose rows and rates are taken"""
    import torch

    from qlora_studio.config.run_config import LoraConfig, TrainingConfig
    from qlora_studio.engine.frozen_weights import Storage
    from qlora_studio.engine.optimizer import BETAS, EPSILON
    from tests.engine.plain_stack import plain_loss, plain_tuned, save_fresh_adapter

    learned, held_out = rows
    storage, adapter = Storage("nf4", True, torch.bfloat16), home / f"adapter {seed}"
    save_fresh_adapter(folder, adapter, LoraConfig(r=arguments.r, alpha=16), storage, seed)
    model = plain_tuned(folder, adapter, storage)

    def loss_held_out() -> float:
        model.eval()
        with torch.no_grad():
            return float(plain_loss(model, held_out))

    before = loss_held_out()
    by_number = {row.row: row for row in learned}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    training = TrainingConfig()
    optimizer = torch.optim.AdamW(weights, betas=BETAS, eps=EPSILON, weight_decay=training.weight_decay)
    model.train()
    losses = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = step.learning_rate
        loss = plain_loss(model, [by_number[number] for number in step.rows])
        loss.backward()
        losses.append(float(loss.detach()))
        torch.nn.utils.clip_grad_norm_(weights, training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    counted = losses[min(WARM_UP, len(losses) - 1) :]
    return Measured(before, loss_held_out(), statistics.fmean(counted[-20:]), float("nan"), ())


if __name__ == "__main__":
    main()
