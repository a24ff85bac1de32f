"""What was measured on, and what its card can do at most: figures stand beside these."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata

import torch

_TOLD = ("torch", "transformers", "bitsandbytes", "peft")
_ROUNDS = 20


def machine() -> str:
    """The card, the versions that decide what comes out, and the day."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    versions = ", ".join(f"{library} {metadata.version(library)}" for library in _TOLD)
    return f"{name}, {versions}, {time.strftime('%Y-%m-%d')}"


def copy_rate() -> float:
    """Bytes a second, read and written, of a copy larger than any cache; not a number without a card."""
    if not torch.cuda.is_available():
        return float("nan")
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / seconds(partial(target.copy_, source))
    del source, target
    torch.cuda.empty_cache()  # what is measured next may be another process's
    return rate


def matrix_rate() -> float:
    """Operations a second of a large bfloat16 product; not a number without a card."""
    if not torch.cuda.is_available():
        return float("nan")
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    rate = 2 * 8192**3 / seconds(partial(torch.mm, a, b))
    del a, b
    torch.cuda.empty_cache()
    return rate


def seconds(do: Callable[[], object]) -> float:
    """Median of some rounds, by the card's clock."""
    for _ in range(3):
        do()
    taken = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        do()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return statistics.median(taken)
