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
    returns:     float32 []: nats. The products are made in dtype, everything after them in float32
    source:      Liger Kernel, arXiv:2410.10989: the gradient is made in the forward pass. A head that is
                 trained goes autograd's way instead, and each chunk's logits are made twice
    """
    head = _Head(head_weight, head_bias, logit_scale, softcap)
    if chunk is None:
        chunk_logits = _CHUNK_LOGITS_CPU if hidden.device.type == "cpu" else _CHUNK_LOGITS_CARD
        chunk = max(1, chunk_logits // head_weight.shape[0])
    weights = torch.ones_like(targets, dtype=torch.float32) if weights is None else weights.detach().float()
    hidden = hidden.to(head_weight.dtype)
    if head.is_trained or not torch.is_grad_enabled():
        return _summed_by_autograd(hidden, head, targets, weights, chunk)
    total: Tensor = _FrozenHeadLoss.apply(hidden, head, targets, weights, chunk)  # type: ignore[no-untyped-call]
    return total


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


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: _Head, targets: Tensor, weights: Tensor, chunk: int
    ) -> Tensor:
        grad_hidden = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        in_place = _in_place_kernel(hidden)
        for part in _parts(len(targets), chunk):
            if in_place is not None:
                logits = linear(hidden[part], head.weight, head.bias)
                losses = in_place(logits, targets[part], head.logit_scale, head.softcap)
                total += (losses * weights[part]).sum()
                grad_hidden[part] = (logits @ head.weight) * weights[part, None]
                continue
            logits = head.logits(hidden[part])
            target = targets[part, None]
            log_probabilities = logits.log_softmax(dim=-1)
            total -= (log_probabilities.gather(-1, target)[:, 0] * weights[part]).sum()
            # d loss / d logits = softmax - 1 at the target; weights are cheaper to apply at the end
            grad_logits = log_probabilities.exp_()
            grad_logits.scatter_add_(-1, target, -torch.ones_like(target, dtype=torch.float32))
            grad_hidden[part] = head.grad_hidden(grad_logits, logits) * weights[part, None]
        ctx.save_for_backward(grad_hidden)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_total: Tensor) -> Any:
        (grad_hidden,) = ctx.saved_tensors
        return (grad_hidden * grad_total[0]).to(grad_hidden.dtype), None, None, None, None


def _in_place_kernel(hidden: Tensor) -> Callable[[Tensor, Tensor, float, float | None], Tensor] | None:
    """Where there is a card and Triton: no fp32 logits are made, and their gradient takes their place."""
    if not hidden.is_cuda or find_spec("triton") is None:
        return None
    from qlora_kernels.triton.cross_entropy import losses_and_gradient

    return losses_and_gradient


def _parts(n: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, n, chunk)]
