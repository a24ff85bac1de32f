"""Each kernel on a card by itself: how long it takes, and the share of what the card can do.

    python -m tests.benchmarks.kernels

In the shapes of an 8B Llama. What reads and writes is compared with the rate at which the card copies memory,
what multiplies with the rate of its largest bfloat16 product, both measured in the same run. Kernels are
recorded, so that Python's time to start one isn't counted; those that a reply is written with work on more
weights than the card's cache holds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from qlora_kernels import (
    Quantized4bit,
    cached_attention,
    dequantize_4bit,
    learned_cross_entropy,
    linear_4bit,
    linears_4bit,
    packed_attention,
    quantize_4bit,
)
from qlora_kernels.packed_attention import packed_attention_backward

from tests.benchmarks.machine import copy_rate, machine, matrix_rate, seconds

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 4096, 14_336, 32, 8, 128, 128_256
TOKENS, RANK, CHAT_RANK = 8192, 64, 16
SIZE = 2
MANY = 2**28  # weights that no cache holds


def main() -> None:
    """One line for each kernel."""
    torch.manual_seed(0)
    copied, multiplied = copy_rate(), matrix_rate()
    print(f"{machine()}; copies {copied / 1e12:.2f} TB/s, multiplies {multiplied / 1e12:.0f} TFLOP/s")
    print(f"{'':46} {'us':>9} {'TB/s':>6} {'TFLOP/s':>8} {'share':>6}")
    for name, taken, moved, operations in [*training_kernels(), *reply_kernels()]:
        share = moved / taken / copied if moved else operations / taken / multiplied
        bandwidth = f"{moved / taken / 1e12:.2f}" if moved else ""
        rate = f"{operations / taken / 1e12:.0f}" if operations else ""
        print(f"{name:46} {taken * 1e6:9.1f} {bandwidth:>6} {rate:>8} {share:6.2f}")


def training_kernels() -> list[tuple[str, float, float, float]]:
    """Name, seconds, bytes moved or 0, operations or 0."""
    found = []
    for out, columns in ((HIDDEN, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)):
        weight, x = quantized(out, columns), noise(TOKENS, columns)
        moved = stored_bytes(weight) + out * columns * SIZE
        found.append(
            (
                f"dequantize {out} x {columns}",
                recorded_seconds([partial(dequantized, weight)] * 4),
                moved,
                0.0,
            )
        )
        operations = 2 * TOKENS * out * columns
        taken = recorded_seconds([partial(product, x, weight, None, None)] * 4)
        found.append((f"4-bit product {TOKENS} x {columns} to {out}", taken, 0.0, operations))
        low_rank, lora_b = noise(TOKENS, RANK), noise(out, RANK)
        taken = recorded_seconds([partial(product, x, weight, low_rank, lora_b)] * 4)
        found.append((f"the same with B of r = {RANK}", taken, 0.0, operations + 2 * TOKENS * out * RANK))
    for lengths, kind in (([2048] * 4, "equal"), ([2048, 2047, 2049, 2048], "unequal")):
        found += attention(lengths, kind)
    return [*found, loss()]


def attention(lengths: list[int], kind: str) -> list[tuple[str, float, float, float]]:
    """Over packed rows, forward and backward; the half of the scores that is seen counts."""
    query, key, value = (noise(TOKENS, heads, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    starts = torch.tensor([0, *lengths], dtype=torch.int32, device="cuda").cumsum(0, dtype=torch.int32)
    rest = (starts, max(lengths), HEAD_DIM**-0.5, 0)
    out, log_sums = packed_attention(query, key, value, *rest)
    operations = 2.0 * sum(length**2 for length in lengths) * HEADS * HEAD_DIM
    forward = recorded_seconds([partial(packed_attention, query, key, value, *rest)] * 4)
    back = partial(packed_attention_backward, out, query, key, value, out, log_sums, *rest)
    backward = recorded_seconds([back] * 4)
    rows = f"{len(lengths)} {kind} rows of {TOKENS} tokens"
    return [
        (f"attention, {rows}", forward, 0.0, operations),
        ("its backward", backward, 0.0, 2.5 * operations),
    ]


def loss() -> tuple[str, float, float, float]:
    """Head, loss and their gradient: the product forward, and the one backward."""
    hidden, head = noise(TOKENS, HIDDEN).requires_grad_(), noise(VOCABULARY, HIDDEN) * 0.01
    targets = torch.randint(0, VOCABULARY, (TOKENS,), device="cuda")

    def step() -> None:
        learned_cross_entropy(hidden, head, targets).backward()

    return (
        f"head and loss of {TOKENS} tokens, both ways",
        seconds(step),
        0.0,
        4.0 * TOKENS * VOCABULARY * HIDDEN,
    )


def reply_kernels() -> list[tuple[str, float, float, float]]:
    """One to four tokens; r = 16. Weights that have their input in common are multiplied at once."""
    found = []
    for columns, outs in (
        (HIDDEN, [HIDDEN]),
        (HIDDEN, [HIDDEN, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM]),
        (HIDDEN, [INNER]),
        (HIDDEN, [INNER, INNER]),
        (INNER, [HIDDEN]),
    ):
        count = max(2, MANY // (columns * sum(outs)))
        weights = [[quantized(out, columns) for out in outs] for _ in range(count)]
        for tokens, rank in ((1, 0), (1, CHAT_RANK), (4, CHAT_RANK)):
            x = noise(tokens, columns)
            lora = [
                (noise(rank, columns).float(), noise(out, rank).float()) if rank else None for out in outs
            ]
            taken = recorded_seconds([partial(products, x, each, lora) for each in weights])
            moved = sum(map(stored_bytes, weights[0])) + sum(
                a.nbytes + b.nbytes for a, b in filter(None, lora)
            )
            name = f"4-bit product of {tokens}, {columns} to {', '.join(map(str, outs))}"
            found.append((name + (f", r = {rank}" if rank else ""), taken, moved, 0.0))
    return [*found, reply_attention()]


def reply_attention() -> tuple[str, float, float, float]:
    """One token over 4,096 kept ones."""
    query = noise(1, HEADS, HEAD_DIM)
    kept = [noise(1, 4096, KV_HEADS, HEAD_DIM) for _ in range(32)]
    used = torch.tensor([4096], dtype=torch.int32, device="cuda")
    starts = torch.tensor([[0, 1], [0, 4096]], dtype=torch.int32, device="cuda")
    scale = HEAD_DIM**-0.5
    taken = recorded_seconds([partial(cached_attention, query, k, k, used, starts, scale, 0) for k in kept])
    return "attention of 1 over 4,096 kept", taken, 2.0 * kept[0].nbytes, 0.0


def quantized(out: int, columns: int) -> Quantized4bit:
    return quantize_4bit(noise(out, columns) * 0.02)


def product(x: torch.Tensor, weight: Quantized4bit, low_rank: Any, lora_b: Any) -> torch.Tensor:
    made: torch.Tensor = linear_4bit(
        x, weight.tensors, weight.block_size, weight.quant_type, weight.shape, None, low_rank, lora_b
    )
    return made


def products(x: torch.Tensor, weights: list[Quantized4bit], lora: list[Any]) -> list[torch.Tensor]:
    """lora: A and B of each weight, or None."""
    tensors = [tensor for weight in weights for tensor in weight.tensors]
    outs = [weight.shape[0] for weight in weights]
    lora_a, lora_b = ([each and each[part] for each in lora] for part in (0, 1))
    none, ones = [None] * len(weights), [1.0] * len(weights)
    made: list[torch.Tensor] = linears_4bit(x, tensors, 64, "nf4", outs, none, lora_a, lora_b, ones)
    return made


def dequantized(weight: Quantized4bit) -> torch.Tensor:
    packed, absmax, *nested = weight.tensors
    made: torch.Tensor = dequantize_4bit(
        packed, absmax, weight.block_size, weight.quant_type, weight.shape, torch.bfloat16, *nested
    )
    return made


def adapter(out: int, columns: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B."""
    return noise(rank, columns).float(), noise(out, rank).float()


def stored_bytes(weight: Quantized4bit) -> float:
    return float(sum(tensor.nbytes for tensor in weight.tensors))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


def recorded_seconds(each: list[Callable[[], object]]) -> float:
    """Of one of them, all recorded one after the other as one graph."""
    for do in each[:2]:
        do()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [do() for do in each]
    taken = seconds(graph.replay) / len(kept)
    graph.reset()
    return taken


if __name__ == "__main__":
    main()
