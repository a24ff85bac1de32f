"""LoftQ: an adapter that begins as the best answer of its rank to what 4 bits lost of each weight.

LoftQ, arXiv:2310.08659, with one pass: the base stays as it was quantized, so that any program that loads it
in the same 4 bits and reads the adapter has what was trained. Further passes would change the base.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from qlora_kernels import Quantized4bit
from torch import Tensor

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.merging import StoredWeights, base_layer, is_turned
from qlora_studio.protocol.events import LoadingProgress

# Of a matrix of 1024 x 2048 normal numbers in NF4 this finds 99.6 % of what a whole SVD does at rank 64,
# 97.7 % at rank 16 (measured on a processor, float32).
_ITERATIONS = 8
_LEAST_BESIDE = 16  # directions that are followed beside those that are kept


def begin_with_what_was_lost(adapted: AdaptedModel, adapter: str) -> Generator[LoadingProgress, None, None]:
    """Sets A and B of a new adapter; draws from torch's own randomness.

    Raises: StudioError where the model's folder can't be read again.
    """
    stored = StoredWeights(Path(adapted.base.source))
    for done, name in enumerate(adapted.linears):
        module = adapted.causal_lm.get_submodule(name)
        if name in adapted.base.unquantized:
            continue  # nothing was lost of it
        if adapter in getattr(module, "lora_A", ()):
            words = "Rounding errors go into the adapter"
            yield LoadingProgress(done=done, total=len(adapted.linears), words=words)
            _set(module, adapter, stored.tensor(f"{name}.weight"))


@torch.no_grad()
def _set(module: Any, adapter: str, original: Tensor) -> None:
    linear = base_layer(module)
    assert isinstance(linear, bnb.nn.Linear4bit)
    original = original.to(linear.weight.device, torch.float32)
    quantized = Quantized4bit.from_bitsandbytes(linear.weight, linear.weight.quant_state)
    lost = (original.T if is_turned(module) else original) - quantized.dequantize(torch.float32)
    a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
    left, sizes, right = _largest(lost, a.shape[0])
    shared = (sizes / module.scaling[adapter]).sqrt()  # the adapter is scaled: its product makes that good
    a.copy_(shared[:, None] * right.T)  # in place: an optimizer may hold them as views of one tensor
    b.copy_(left * shared)


def _largest(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left directions [out, rank], sizes [rank], right directions [in, rank]; zeros where there are fewer."""
    followed = min(rank + max(rank, _LEAST_BESIDE), *matrix.shape)
    left, sizes, right = torch.svd_lowrank(matrix, q=followed, niter=_ITERATIONS)
    missing = max(rank - followed, 0)
    pad = torch.nn.functional.pad
    return (
        pad(left[:, :rank], (0, missing)),
        pad(sizes[:rank], (0, missing)),
        pad(right[:, :rank], (0, missing)),
    )
