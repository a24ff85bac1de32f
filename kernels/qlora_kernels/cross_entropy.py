"""The loss at the positions where something is learned, without ever holding all their logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

# Logits that exist at one time. On a CPU larger chunks are slower: 512 positions of a head of 49152 x 576,
# in bfloat16 on 2 shared cores, took 0.10 s in chunks of 128 or 256, 0.24 s in one of 512, 0.29 s plainly.
_CHUNK_LOGITS_CPU = 2**23
_CHUNK_LOGITS_CARD = 2**25
_TILE = 256  # positions, of cuBLAS: on an H100 261 at a time took 3.33 us each, 256 3.27


def learned_cross_entropy(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    *,
    head_bias: Tensor | None = None,
    weights: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk: int | None = None,
    logits_at_once: int | None = None,
) -> Tensor:
    """Cross-entropy of softmax(head(hidden)), summed over the positions.

    hidden:      dtype [n, hidden_size]: the last hidden states of the learned positions alone
    head_weight: dtype [vocabulary, hidden_size]
    targets:     int64 [n]: the id to be learned at each
    head_bias:   dtype [vocabulary]
    weights:     float [n]: what each position counts; gets no gradient
    logit_scale: the logits are multiplied by it, and then
    softcap:     squeezed to softcap * tanh(logits / softcap)
    chunk:       positions whose logits exist at one time
    logits_at_once: what `chunk` is made of on a card, where a frozen head's gradient takes the logits' place
    returns:     float32 []: nats. The products are made in dtype, everything after them in float32
    source:      Liger Kernel, arXiv:2410.10989: the gradient is made in the forward pass. A head that is
                 trained goes autograd's way instead, and each chunk's logits are made twice
    """
    head = _Head(head_weight, head_bias, logit_scale, softcap)
    by_autograd = head.is_trained or not torch.is_grad_enabled()
    chunk = chunk or _chunk_of(hidden, head_weight, None if by_autograd else logits_at_once)
    weights = torch.ones_like(targets, dtype=torch.float32) if weights is None else weights.detach().float()
    hidden = hidden.to(head_weight.dtype)
    if by_autograd:
        return _summed_by_autograd(hidden, head, targets, weights, chunk)
    total: Tensor = _FrozenHeadLoss.apply(hidden, head, targets, weights, chunk)  # type: ignore[no-untyped-call]
    return total


def learned_token_losses(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    *,
    head_bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk: int | None = None,
    logits_at_once: int | None = None,
) -> Tensor:
    """As `learned_cross_entropy`, of each position apart: what a loss over whole answers is made of.

    returns: float32 [n]: nats. Their gradient may differ from position to position
    """
    head = _Head(head_weight, head_bias, logit_scale, softcap)
    by_autograd = head.is_trained or not torch.is_grad_enabled()
    chunk = chunk or _chunk_of(hidden, head_weight, None if by_autograd else logits_at_once)
    hidden = hidden.to(head_weight.dtype)
    if by_autograd:
        return _each_by_autograd(hidden, head, targets, chunk)
    losses: Tensor = _FrozenHeadLosses.apply(hidden, head, targets, chunk)  # type: ignore[no-untyped-call]
    return losses


@dataclass(frozen=True)
class _Head:
    """What turns hidden states into logits."""

    weight: Tensor
    bias: Tensor | None
    logit_scale: float
    softcap: float | None

    @property
    def is_trained(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [positions, vocabulary]."""
        logits = linear(hidden, self.weight, self.bias).float()
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def grad_hidden(self, grad_logits: Tensor, logits: Tensor) -> Tensor:
        """Overwrites `grad_logits`."""
        if self.softcap is not None:
            grad_logits *= 1 - (logits / self.softcap).square()
        return (grad_logits.to(self.weight.dtype) @ self.weight) * self.logit_scale


def _summed_by_autograd(hidden: Tensor, head: _Head, targets: Tensor, weights: Tensor, chunk: int) -> Tensor:
    def chunk_loss(hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return (cross_entropy(head.logits(hidden), targets, reduction="none") * weights).sum()

    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for part in _parts(len(targets), chunk):
        inputs = hidden[part], targets[part], weights[part]
        total = total + checkpoint(chunk_loss, *inputs, use_reentrant=False, preserve_rng_state=False)
    return total


def _each_by_autograd(hidden: Tensor, head: _Head, targets: Tensor, chunk: int) -> Tensor:
    def chunk_losses(hidden: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(head.logits(hidden), targets, reduction="none")

    parts = [
        checkpoint(chunk_losses, hidden[part], targets[part], use_reentrant=False, preserve_rng_state=False)
        for part in _parts(len(targets), chunk)
    ]
    return torch.cat([*parts, hidden.new_zeros(0, dtype=torch.float32)])


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: _Head, targets: Tensor, weights: Tensor, chunk: int
    ) -> Tensor:
        grad_hidden = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for part in _parts(len(targets), chunk):
            losses, grad = _losses_and_gradient(hidden[part], head, targets[part])
            total += (losses * weights[part]).sum()
            grad_hidden[part] = grad * weights[part, None]
        ctx.save_for_backward(grad_hidden)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_total: Tensor) -> Any:
        (grad_hidden,) = ctx.saved_tensors
        return (grad_hidden * grad_total[0]).to(grad_hidden.dtype), None, None, None, None


class _FrozenHeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: _Head, targets: Tensor, chunk: int) -> Tensor:
        grad_hidden = torch.empty_like(hidden)
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        for part in _parts(len(targets), chunk):
            losses[part], grad_hidden[part] = _losses_and_gradient(hidden[part], head, targets[part])
        ctx.save_for_backward(grad_hidden)
        ctx.chunk = chunk
        return losses

    @staticmethod
    def backward(ctx: Any, *grad_losses: Tensor) -> Any:
        (grad_hidden,) = ctx.saved_tensors
        scaled = torch.empty_like(grad_hidden)
        for part in _parts(len(scaled), ctx.chunk):  # in parts: each product is float32 before it is rounded
            scaled[part] = grad_hidden[part] * grad_losses[0][part, None]
        return scaled, None, None, None


def _losses_and_gradient(hidden: Tensor, head: _Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [n]: nats; [n, hidden_size]: the gradient of each position's own."""
    in_place = _in_place_kernel(hidden)
    if in_place is not None:
        logits = linear(hidden, head.weight, head.bias)
        return in_place(logits, targets, head.logit_scale, head.softcap), logits @ head.weight
    logits = head.logits(hidden)
    target = targets[:, None]
    log_probabilities = logits.log_softmax(dim=-1)
    losses = -log_probabilities.gather(-1, target)[:, 0]
    # d loss / d logits = softmax - 1 at the target
    grad_logits = log_probabilities.exp_()
    grad_logits.scatter_add_(-1, target, -torch.ones_like(target, dtype=torch.float32))
    return losses, head.grad_hidden(grad_logits, logits)


def _in_place_kernel(hidden: Tensor) -> Callable[[Tensor, Tensor, float, float | None], Tensor] | None:
    """Where there is a card and Triton: no fp32 logits are made, and their gradient takes their place."""
    if not hidden.is_cuda or find_spec("triton") is None:
        return None
    from qlora_kernels.triton.cross_entropy import losses_and_gradient

    return losses_and_gradient


def _chunk_of(hidden: Tensor, head_weight: Tensor, logits_at_once: int | None) -> int:
    """logits_at_once: None: as usual"""
    vocabulary = head_weight.shape[0]
    if hidden.device.type == "cpu":
        return max(1, _CHUNK_LOGITS_CPU // vocabulary)
    if logits_at_once is None or _in_place_kernel(hidden) is None:
        logits_at_once = _CHUNK_LOGITS_CARD
    chunk = max(1, logits_at_once // vocabulary)
    return chunk if chunk < _TILE else chunk - chunk % _TILE


def _parts(n: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, n, chunk)]
