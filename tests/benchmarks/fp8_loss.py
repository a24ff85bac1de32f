"""What fp8 products cost in exactness: the loss held out after as many updates with bf16 and with fp8.

    python -m tests.benchmarks.fp8_loss
    python -m tests.benchmarks.fp8_loss --data gsm8k_train.jsonl --held-out 500 --seeds 0 1 2

The sample model learns questions and answers, by default the bundled ones: NF4 + DQ, layers compiled, the
same seed, rows and order on both sides; both adapters are measured in 16 bit on the same rows held out. A
seed has its own order and adapter: how far two seeds lie apart says what a difference is worth.

On a processor layers are compiled for this benchmark alone, without the code generator (`aot_eager`), and
e4m3 products are made by their plain torch reference: with few steps (`--steps 3 --seq-len 128`) a check of
this script.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    pass

from tests.benchmarks.sample_training import model_folder, own_home, parsed_arguments, read_rows, trained

GOAL = 0.005  # of the loss with bf16
SIDES = {"bf16": False, "bf16 and fp8": True}


def main() -> None:
    arguments = parsed_arguments(__doc__, steps=300)
    with own_home() as home:
        _measure(home, arguments)


def _measure(home: Path, arguments: argparse.Namespace) -> None:
    from qlora_studio.engine.device import find_device
    from qlora_studio.engine.model_holder import ModelHolder
    from tests.benchmarks.machine import machine

    model = model_folder(arguments.model)
    learned, held_out = read_rows(model, arguments)
    device = find_device()
    print(
        f"{machine()}; {len(learned)} rows to learn from, {len(held_out)} held out; {arguments.steps} steps "
        f"of {arguments.rows} x {arguments.seq_len} tokens, r = {arguments.r}, rate {arguments.rate:g}",
        flush=True,
    )
    print(f"{'seed':>4} {'':14} {'before':>8} {'after':>8} {'ratio':>8} {'last steps':>10} {'tokens/s':>9}")
    holder, within = ModelHolder(device), True
    for seed in arguments.seeds:
        reference = 0.0
        for name, fp8 in SIDES.items():
            with nullcontext() if device.is_cuda else _compiled_on_a_processor():
                found = trained(home, model, holder, (learned, held_out), arguments, seed, fp8)
            reference = reference or found.after
            print(
                f"{seed:4} {name:14} {found.before:8.4f} {found.after:8.4f} {found.after / reference:8.4f} "
                f"{found.last:10.4f} {found.tokens_per_second:9,.0f}",
                *found.notes,
                flush=True,
            )
        within &= abs(found.after / reference - 1) <= GOAL
    print(f"{'within' if within else 'NOT within'} {GOAL:.1%} of bf16")


@contextmanager
def _compiled_on_a_processor() -> Iterator[None]:
    """And from packed weights, which are otherwise kept in 16 bit there."""
    from qlora_kernels import replacement

    from qlora_studio.engine import compiled_layers, layer_setup

    compiled = partial(compiled_layers.compile_layers, backend="aot_eager")
    with (
        patch.object(replacement, "_fits_dequantized", lambda _: False),
        patch.multiple(layer_setup, why_not_compiled=lambda *_: None, compile_layers=compiled),
    ):
        yield


if __name__ == "__main__":
    main()
