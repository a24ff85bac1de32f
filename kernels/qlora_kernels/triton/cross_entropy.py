"""Logits to losses and gradients, in one kernel and in the logits' own memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOGITS_A_TURN = 8192  # of one position; H100, 128,256 logits: 4,096 and 16,384 are slower


def losses_and_gradient(
    logits: Tensor, targets: Tensor, logit_scale: float = 1.0, softcap: float | None = None
) -> Tensor:
    """Cross-entropy of softcap(logit_scale * logits), and in place of the logits its gradient by them.

    logits:  dtype [n, vocabulary], contiguous; overwritten. What is computed from them is float32
    targets: int64 [n]
    returns: float32 [n]: nats
    """
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        _losses_and_gradient_kernel[(len(logits),)](
            logits,
            targets,
            losses,
            logits.shape[1],
            logit_scale,
            softcap or 0.0,
            SOFTCAP=bool(softcap),
            TURN=min(_LOGITS_A_TURN, triton.next_power_of_2(logits.shape[1])),
            num_warps=16,
        )
    return losses


@triton.jit  # type: ignore[untyped-decorator]
def _losses_and_gradient_kernel(  # type: ignore[no-untyped-def]
    logits, targets, losses, vocabulary, logit_scale, softcap, SOFTCAP: tl.constexpr, TURN: tl.constexpr
):
    position = tl.program_id(0).to(tl.int64)
    row = logits + position * vocabulary
    target = tl.load(targets + position)

    largest = tl.full((TURN,), float("-inf"), tl.float32)
    total = tl.zeros((TURN,), tl.float32)
    for start in range(0, vocabulary, TURN):
        at = start + tl.arange(0, TURN)
        scaled = tl.load(row + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32) * logit_scale
        if SOFTCAP:
            scaled = tl.where(at < vocabulary, _capped(scaled, softcap), float("-inf"))
        higher = tl.maximum(largest, scaled)
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # lanes that have seen no logit yet
        total = total * tl.exp(largest - shift) + tl.exp(scaled - shift)
        largest = higher
    top = tl.max(largest, axis=0)
    log_sum = top + tl.log(tl.sum(total * tl.exp(largest - top), axis=0))

    at_target = tl.load(row + target).to(tl.float32) * logit_scale
    if SOFTCAP:
        at_target = _capped(at_target, softcap)
    tl.store(losses + position, log_sum - at_target)
    tl.debug_barrier()  # the target's logit is read before it is overwritten

    for start in range(0, vocabulary, TURN):
        at = start + tl.arange(0, TURN)
        scaled = tl.load(row + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32) * logit_scale
        if SOFTCAP:
            scaled = _capped(scaled, softcap)
        gradient = tl.exp(scaled - log_sum) - tl.where(at == target, 1.0, 0.0)
        if SOFTCAP:
            gradient *= 1 - (scaled / softcap) * (scaled / softcap)
        gradient *= logit_scale
        tl.store(row + at, gradient.to(logits.dtype.element_ty), mask=at < vocabulary)


@triton.jit
def _capped(scaled, softcap):  # type: ignore[no-untyped-def]
    half = tl.exp(-2 * tl.abs(scaled / softcap))  # tanh, which triton.language lacks
    tanh = (1 - half) / (1 + half)
    return softcap * tl.where(scaled < 0, -tanh, tanh)
