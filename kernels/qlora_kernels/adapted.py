"""The products of an input with all frozen 4-bit weights that take it, whose adapters learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from qlora_kernels.linear import dequantized, flat, of_each, product
from qlora_kernels.operations import operation, operation_without_gradient, register_fake


@operation("qlora::adapted_4bit")
def adapted_4bit(
    x: Tensor,
    lora_a: Tensor,
    low_rank: Tensor,
    weights: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    out_features: Sequence[int],
    biases: Sequence[Tensor | None],
    lora_b: Sequence[Tensor],
) -> list[Tensor]:
    """Each weight's x W^T + bias + x A^T B^T, W frozen; see `linear_4bit`, from which this differs in what it
    saves the backward pass: the gradient of x is one sum, which no other kernel reads and writes again.

    x:            dtype [..., in_features]
    lora_a:       dtype [r of all, in_features]: each adapter's A times its scaling, one below the other
    low_rank:     dtype [..., r of all]: x A^T, made outside, so that checkpointing makes it again without the
                  large product; gets no gradient, as x and A get theirs here
    weights:      codes and scales of each as `Quantized4bit.tensors` gives them, one after the other
    out_features: of each; so many weights there are
    biases:       dtype [out_features] of each, or None; get no gradient
    lora_b:       dtype [out_features, r] of each
    returns:      dtype [..., out_features] of each
    """
    rows, low = flat(x), flat(low_rank)
    made, at = [], 0
    all_of_each = zip(of_each(weights, len(out_features)), out_features, biases, lora_b, strict=True)
    for weight, features, bias, b in all_of_each:
        shape = (features, x.shape[-1])
        whole = dequantized(weight, block_size, quant_type, shape, x.dtype)
        made.append(product(rows, whole, bias, low[:, at : at + b.shape[1]], b).view(*x.shape[:-1], features))
        at += b.shape[1]
    return made


@adapted_4bit.register_fake
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


@operation_without_gradient("qlora::adapted_4bit_grad_input")
def adapted_4bit_grad_input(
    grads: Sequence[Tensor],
    grad_low_rank: Tensor,
    lora_a: Tensor,
    weights: Sequence[Tensor],
    block_size: int,
    quant_type: str,
) -> Tensor:
    """The sum of each grad W, and grad_low_rank A. Opaque, as `linear_4bit_grad_input` is.

    grads:         dtype [..., out_features] of each weight
    grad_low_rank: dtype [..., r of all]
    returns:       dtype [..., in_features], rounded after each summand
    """
    made = flat(grad_low_rank) @ lora_a
    for grad, weight in zip(grads, of_each(weights, len(grads)), strict=True):
        shape = (grad.shape[-1], lora_a.shape[1])
        # The large product reads what it adds to behind its own work.
        made.addmm_(flat(grad), dequantized(weight, block_size, quant_type, shape, grad.dtype))
    return made.view(*grad_low_rank.shape[:-1], lora_a.shape[1])


@register_fake("qlora::adapted_4bit_grad_input")
def _(grads: Sequence[Tensor], grad_low_rank: Tensor, lora_a: Tensor, *others: Any) -> Tensor:
    return grad_low_rank.new_empty([*grad_low_rank.shape[:-1], lora_a.shape[1]])


def low_rank_of(x: Tensor, lora_a: Tensor) -> Tensor:
    """x A^T as `adapted_4bit` takes it."""
    return linear(x.detach(), lora_a.detach())


def gradient_of_low_rank(grads: Sequence[Tensor], lora_b: Sequence[Tensor]) -> Tensor:
    """dtype [..., r of all], of the gradients of each output."""
    return torch.cat([grad @ b for grad, b in zip(grads, lora_b, strict=True)], dim=-1)


def gradients_of_adapters(
    grads: Sequence[Tensor],
    grad_low_rank: Tensor,
    x: Tensor,
    low_rank: Tensor,
    lora_b: Sequence[Tensor],
    a_wanted: bool,
    b_wanted: Sequence[bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Of A of all, and of each B; None where it isn't wanted."""
    grad_a = flat(grad_low_rank).t() @ flat(x) if a_wanted else None
    if not any(b_wanted):
        return grad_a, [None] * len(lora_b)
    parts = torch.split(flat(low_rank), [b.shape[1] for b in lora_b], dim=-1)
    return grad_a, [flat(grad).t() @ part for grad, part in zip(grads, parts, strict=True)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, lora_a, low_rank, weights, ctx.block_size, ctx.quant_type, _, biases, lora_b = inputs
    ctx.adapters = len(lora_b)
    # torch asks for a list where it was given a list of tensors, and for None where one of them was None.
    ctx.no_grad_biases = None if any(bias is None for bias in biases) else [None] * len(biases)
    ctx.save_for_backward(x, lora_a, low_rank, *lora_b, *weights)


def _backward(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    x, lora_a, low_rank, *others = ctx.saved_tensors
    lora_b, weights = others[: ctx.adapters], others[ctx.adapters :]
    x_wanted, a_wanted, _, _, _, _, _, _, b_wanted = ctx.needs_input_grad
    grad_low_rank = gradient_of_low_rank(grads, lora_b)
    grad_x = None
    if x_wanted:
        grad_x = adapted_4bit_grad_input(
            grads, grad_low_rank, lora_a, weights, ctx.block_size, ctx.quant_type
        )
    grad_a, grad_b = gradients_of_adapters(grads, grad_low_rank, x, low_rank, lora_b, a_wanted, b_wanted)
    return grad_x, grad_a, None, [None] * len(weights), None, None, None, ctx.no_grad_biases, grad_b


adapted_4bit.register_autograd(_backward, setup_context=_save)
