"""Products of frozen 4-bit weights in 8-bit floating point (e4m3): Ada, Hopper and later cards make twice as
many of them a second as of 16-bit ones.

Weights have a scale a row, inputs and gradients a scale a token, as torch's `_scaled_mm` takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from qlora_kernels.dequantize import dequantize_4bit
from qlora_kernels.linear import flat
from qlora_kernels.operations import operation, operation_without_gradient, register_fake
from qlora_kernels.scratch import scratch
from qlora_kernels.triton import fp8_weight_on_card

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
_SMALLEST_SCALE = 1e-12  # a token of zeros is divided by this instead of by zero
_ALIGNED = 16  # rows and columns that the products need a multiple of
_LEAST_CARD = (8, 9)  # compute capability


def refused(weight: Sequence[Tensor], block_size: int, shape: Sequence[int]) -> str | None:
    """Why a weight can't be multiplied so; None where it can. weight: as `linear_4bit` takes it."""
    device = weight[0].device
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _LEAST_CARD:
        return "fp8 needs an Ada, Hopper or later card"
    if len(weight) == 1:
        return "its weight is kept in 16 bit"
    if shape[0] % _ALIGNED or shape[1] % _ALIGNED or shape[1] % block_size:
        return f"fp8 needs rows and columns in whole blocks, it has {shape[0]} x {shape[1]}"
    return None


def row_scales(weight: Sequence[Tensor], block_size: int, quant_type: str, shape: Sequence[int]) -> Tensor:
    """float32 [out_features]: a row's largest magnitude over e4m3's."""
    packed, absmax, *nested = weight
    whole: Tensor = dequantize_4bit(packed, absmax, block_size, quant_type, shape, torch.float32, *nested)
    return whole.abs().amax(dim=1).clamp(min=_SMALLEST_SCALE) / LARGEST


def scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in e4m3, [..., n], and what each is to be multiplied with, float32 [..., 1].

    In torch's own operations, so that a compiler puts it into the kernel that makes the rows.
    """
    values = rows.float()
    scale = values.abs().amax(dim=-1, keepdim=True).clamp(min=_SMALLEST_SCALE) / LARGEST
    return (values / scale).to(E4M3), scale


@operation_without_gradient("qlora::fp8_weight", on_card=fp8_weight_on_card)
def fp8_weight(
    weight: Sequence[Tensor],
    scales: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    transposed: bool,
) -> Tensor:
    """W / scales, each row by its own, rounded to e4m3: [out_features, in_features]; or transposed.

    weight: codes and scales as `Quantized4bit.tensors` gives them
    scales: float32 [out_features], of `row_scales`
    """
    packed, absmax, *nested = weight
    whole: Tensor = dequantize_4bit(packed, absmax, block_size, quant_type, shape, torch.float32, *nested)
    rounded = (whole / scales[:, None]).to(E4M3)
    return rounded.t().contiguous() if transposed else rounded


@register_fake("qlora::fp8_weight")
def _(
    weight: Sequence[Tensor],
    scales: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    transposed: bool,
) -> Tensor:
    rows, columns = shape
    return scales.new_empty((columns, rows) if transposed else (rows, columns), dtype=E4M3)


@operation("qlora::linear_fp8")
def linear_fp8(
    x: Tensor,
    rounded: Tensor,
    scale: Tensor,
    weight: Sequence[Tensor],
    scales: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
) -> Tensor:
    """x W^T, both rounded to e4m3, W frozen. Opaque, as `linear_4bit` is.

    x:       dtype [..., in_features]; only its shape and dtype are used, and it gets the gradient
    rounded: e4m3 [..., in_features] and
    scale:   float32 [..., 1], x as `scaled` makes it
    weight, scales: as `fp8_weight` takes them
    returns: dtype [..., out_features]
    """
    whole = rounded_weight(weight, scales, block_size, quant_type, shape, transposed=False)
    made = product(flat(rounded), flat(scale), whole, scales[None], x.dtype)
    return made.view(*x.shape[:-1], shape[0])


@linear_fp8.register_fake
def _(
    x: Tensor,
    rounded: Tensor,
    scale: Tensor,
    weight: Sequence[Tensor],
    scales: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
) -> Tensor:
    return x.new_empty([*x.shape[:-1], shape[0]])


@operation_without_gradient("qlora::linear_fp8_grad_input")
def linear_fp8_grad_input(
    rounded: Tensor,
    scale: Tensor,
    weight: Sequence[Tensor],
    scales: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """grad W. A row's scale can't be taken out of a sum over rows: the gradient has it already.

    rounded, scale: grad times `scales`, each row's in its column, as `scaled` makes it
    returns:        dtype [..., in_features]
    """
    whole = rounded_weight(weight, scales, block_size, quant_type, shape, transposed=True)
    made = product(flat(rounded), flat(scale), whole, ones(shape[1], scale.device), dtype)
    return made.view(*rounded.shape[:-1], shape[1])


@register_fake("qlora::linear_fp8_grad_input")
def _(
    rounded: Tensor,
    scale: Tensor,
    weight: Sequence[Tensor],
    scales: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    return rounded.new_empty([*rounded.shape[:-1], shape[1]], dtype=dtype)


def rounded_weight(
    weight: Sequence[Tensor],
    scales: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    *,
    transposed: bool,
    into: Tensor | None = None,
) -> Tensor:
    """`fp8_weight`; on a card until the next one, and past torch's dispatcher, for which it would wait.

    into: where it is written instead; its rows may lie further apart than they are long
    """
    if scales.is_cuda:
        if into is None:
            into = room_for_rounded(tuple(reversed(shape)) if transposed else shape, scales.device)
        return fp8_weight_on_card(weight, scales, block_size, quant_type, shape, transposed, into)
    made: Tensor = fp8_weight(weight, scales, block_size, quant_type, shape, transposed)
    return made if into is None else into.copy_(made)


def room_for_rounded(shape: Sequence[int], device: torch.device) -> Tensor:
    """Uninitialized, e4m3 [*shape]; on a card until the next one."""
    if device.type != "cuda":
        return torch.empty(*shape, dtype=E4M3, device=device)
    return scratch(shape, E4M3, device)


@cache
def ones(columns: int, device: torch.device) -> Tensor:
    """float32 [1, columns]. Shared: don't write to it."""
    return torch.ones(1, columns, dtype=torch.float32, device=device)


def product(rows: Tensor, scale: Tensor, weight: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """dtype [rows, n]: (scale * rows) (weight * scales)^T; weight: e4m3 [n, k], scales: [1, n]."""
    if not rows.is_cuda:
        return ((rows.float() @ weight.float().t()) * scale * scales).to(dtype)
    made: Tensor = torch._scaled_mm(
        rows, weight.t(), scale_a=scale, scale_b=scales, out_dtype=dtype, use_fast_accum=True
    )
    return made


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, _, weight, scales, ctx.block_size, ctx.quant_type, ctx.shape = inputs
    ctx.dtype = x.dtype
    ctx.save_for_backward(scales, *weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    scales, *weight = ctx.saved_tensors
    grad_x = None
    if ctx.needs_input_grad[0]:
        rounded, scale = scaled(grad.float() * scales)
        grad_x = linear_fp8_grad_input(
            rounded, scale, weight, scales, ctx.block_size, ctx.quant_type, ctx.shape, ctx.dtype
        )
    return grad_x, None, None, [None] * len(weight), None, None, None, None


linear_fp8.register_autograd(_backward, setup_context=_save)
