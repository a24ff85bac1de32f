"""`adapted_4bit` with the frozen weights' products in e4m3; the adapters' stay in the input's dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qlora_kernels import fp8
from qlora_kernels.adapted import gradient_of_low_rank, gradients_of_adapters
from qlora_kernels.linear import flat, of_each
from qlora_kernels.operations import operation, operation_without_gradient, register_fake


@operation("qlora::adapted_fp8")
def adapted_fp8(
    x: Tensor,
    lora_a: Tensor,
    low_rank: Tensor,
    weights: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    out_features: Sequence[int],
    biases: Sequence[Tensor | None],
    lora_b: Sequence[Tensor],
    rounded: Tensor,
    scale: Tensor,
    scales: Sequence[Tensor],
) -> list[Tensor]:
    """Each weight's x W^T + bias + x A^T B^T; all but the last three as `adapted_4bit` takes it.

    rounded: e4m3 [..., in_features] and
    scale:   float32 [..., 1], x as `fp8.scaled` makes it
    scales:  float32 [out_features] of each weight, of `fp8.row_scales`
    returns: dtype [..., out_features] of each
    """
    rows, row_scales, low = flat(rounded), flat(scale), flat(low_rank)
    made, at = [], 0
    all_of_each = zip(of_each(weights, len(out_features)), scales, out_features, biases, lora_b, strict=True)
    for weight, weight_scales, features, bias, b in all_of_each:
        shape = (features, x.shape[-1])
        whole = fp8.rounded_weight(weight, weight_scales, block_size, quant_type, shape, transposed=False)
        product = fp8.product(rows, row_scales, whole, weight_scales[None], x.dtype)
        product.addmm_(low[:, at : at + b.shape[1]], b.t())
        if bias is not None:
            product += bias
        made.append(product.view(*x.shape[:-1], features))
        at += b.shape[1]
    return made


@adapted_fp8.register_fake
def _(
    x: Tensor,
    lora_a: Tensor,
    low_rank: Tensor,
    weights: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    out_features: Sequence[int],
    *others: Any,
) -> list[Tensor]:
    return [x.new_empty([*x.shape[:-1], features]) for features in out_features]


@operation_without_gradient("qlora::adapted_fp8_grad_input")
def adapted_fp8_grad_input(
    rounded: Tensor,
    scale: Tensor,
    grad_low_rank: Tensor,
    lora_a: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    block_size: int,
    quant_type: str,
) -> Tensor:
    """The sum of each grad W, and grad_low_rank A: one product, as weights stand side by side.

    rounded, scale: the gradients of all outputs side by side, each times its row's scale of the weight, as
                    `fp8.scaled` makes them: e4m3 [..., out_features of all] and float32 [..., 1]
    grad_low_rank:  dtype [..., r of all]
    returns:        dtype [..., in_features]
    """
    columns = lora_a.shape[1]
    whole = fp8.room_for_rounded((columns, rounded.shape[-1]), rounded.device)
    at = 0
    for weight, weight_scales in zip(of_each(weights, len(scales)), scales, strict=True):
        shape = (len(weight_scales), columns)
        into = whole[:, at : at + shape[0]]
        fp8.rounded_weight(weight, weight_scales, block_size, quant_type, shape, transposed=True, into=into)
        at += shape[0]
    ones = fp8.ones(columns, scale.device)
    made = fp8.product(flat(rounded), flat(scale), whole, ones, grad_low_rank.dtype)
    made.addmm_(flat(grad_low_rank), lora_a)
    return made.view(*grad_low_rank.shape[:-1], columns)


@register_fake("qlora::adapted_fp8_grad_input")
def _(rounded: Tensor, scale: Tensor, grad_low_rank: Tensor, lora_a: Tensor, *others: Any) -> Tensor:
    return grad_low_rank.new_empty([*grad_low_rank.shape[:-1], lora_a.shape[1]])


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, lora_a, low_rank, weights, ctx.block_size, ctx.quant_type, _, biases, lora_b, _, _, scales = inputs
    ctx.adapters = len(lora_b)
    ctx.no_grad_biases = None if any(bias is None for bias in biases) else [None] * len(biases)
    ctx.save_for_backward(x, lora_a, low_rank, *lora_b, *scales, *weights)


def _backward(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    x, lora_a, low_rank, *others = ctx.saved_tensors
    count = ctx.adapters
    lora_b, scales, weights = others[:count], others[count : 2 * count], others[2 * count :]
    x_wanted, a_wanted, _, _, _, _, _, _, b_wanted, *_ = ctx.needs_input_grad
    grad_low_rank = gradient_of_low_rank(grads, lora_b)
    grad_x = None
    if x_wanted:
        # A row's scale can't be taken out of a sum over rows: the gradient gets it before it is rounded.
        side_by_side = [grad.float() * one for grad, one in zip(grads, scales, strict=True)]
        rounded, scale = fp8.scaled(torch.cat(side_by_side, dim=-1))
        grad_x = adapted_fp8_grad_input(
            rounded, scale, grad_low_rank, lora_a, weights, scales, ctx.block_size, ctx.quant_type
        )
    grad_a, grad_b = gradients_of_adapters(grads, grad_low_rank, x, low_rank, lora_b, a_wanted, b_wanted)
    no_weights, no_scales = [None] * len(weights), [None] * count
    return (
        *(grad_x, grad_a, None, no_weights, None, None, None, ctx.no_grad_biases, grad_b),
        *(None, None, no_scales),
    )


adapted_fp8.register_autograd(_backward, setup_context=_save)
