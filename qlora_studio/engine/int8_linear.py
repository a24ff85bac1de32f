"""bitsandbytes' int8 layer without what it holds for a weight that is trained: ours are frozen."""

from __future__ import annotations

from typing import Any, cast

import bitsandbytes as bnb
import torch
from torch import Tensor


class FrozenInt8Linear(bnb.nn.Linear8bitLt):  # type: ignore[misc]  # bitsandbytes has no types
    """The same numbers, forward and backward.

    bitsandbytes holds what goes into each layer where torch's recomputation doesn't see it, for the weight's
    gradient: with all layers recomputed these inputs were still there, most of a run's activations.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return cast(Tensor, _Frozen.apply(x, self))  # type: ignore[no-untyped-call]
        return self.as_bitsandbytes(x)

    def as_bitsandbytes(self, x: Tensor) -> Tensor:
        """Its own forward."""
        return cast(Tensor, super().forward(x))


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: FrozenInt8Linear) -> Tensor:
        ctx.state, ctx.dtype = linear.state, x.dtype
        return linear.as_bitsandbytes(x)  # without gradients here: it keeps nothing

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        scales = ctx.state.SCB.unsqueeze(1).mul(1.0 / 127.0)
        weight = ctx.state.CB.to(ctx.dtype, copy=True).mul_(scales)  # as MatMul8bitLt.backward has it
        return torch.matmul(gradient.to(ctx.dtype), weight), None
