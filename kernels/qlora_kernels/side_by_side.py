"""Tensors side by side in one, each written there by whatever makes it.

A compiler's own cat may compute all of them once more for each place: H100, gradients of gate and up of
Llama 8B, r = 64, 4,096 rows: 144 us a layer more than the kernel that makes both, written in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qlora_kernels.operations import operation_without_gradient, register_fake


@operation_without_gradient("qlora::side_by_side")
def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """As torch.cat along the last dimension. parts: dtype [..., n] each; their n may differ"""
    return torch.cat(list(parts), dim=-1)


@register_fake("qlora::side_by_side")
def _(parts: Sequence[Tensor]) -> Tensor:
    first = parts[0]
    return first.new_empty([*first.shape[:-1], sum(part.shape[-1] for part in parts)])


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        return torch.split(whole, sizes, dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] if len(grads) == 1 else side_by_side(grads), None


def apart(whole: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """As torch.split along the last dimension; their gradients come `side_by_side`."""
    parts: tuple[Tensor, ...] = _Apart.apply(whole, sizes)  # type: ignore[no-untyped-call]
    return parts


def write_in_place() -> None:
    """Tells inductor how. Raises: ImportError, AttributeError where it has changed: then parts are copied."""
    from torch._inductor import ir
    from torch._inductor.lowering import lowerings, register_lowering

    if torch.ops.qlora.side_by_side.default not in lowerings:
        register_lowering(torch.ops.qlora.side_by_side, type_promotion_kind=None)(
            lambda parts: ir.TensorBox(ir.ConcatKernel.create(parts, len(parts[0].get_size()) - 1))
        )
