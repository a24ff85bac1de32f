"""The products of an input with all frozen 4-bit weights that take it, whose adapters learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from qlora_kernels.joined import has_room_beside, is_wide, joined
from qlora_kernels.linear import dequantized, flat, of_each, product, shaped_like
from qlora_kernels.operations import operation, operation_without_gradient, register_fake
from qlora_kernels.side_by_side import side_by_side


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
    in_one: bool,
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
    in_one:       one product, in which the adapters stand beside the weights: a long output is written once,
                  for a copy of x, and rounded once, where else it is rounded twice
    returns:      dtype [..., out_features] of each; with `in_one` all side by side, as the only one
    """
    given = flat(x), flat(low_rank), weights, block_size, quant_type, out_features, biases, lora_b
    made = [_product_in_one(*given)] if in_one else _each_product(*given)
    return [shaped_like(x, each) for each in made]


def _each_product(
    rows: Tensor,
    low: Tensor,
    weights: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    out_features: Sequence[int],
    biases: Sequence[Tensor | None],
    lora_b: Sequence[Tensor],
) -> list[Tensor]:
    made, at = [], 0
    all_of_each = zip(of_each(weights, len(out_features)), out_features, biases, lora_b, strict=True)
    for weight, features, bias, b in all_of_each:
        whole = dequantized(weight, block_size, quant_type, (features, rows.shape[1]), rows.dtype)
        made.append(product(rows, whole, bias, low[:, at : at + b.shape[1]], b))
        at += b.shape[1]
    return made


def _product_in_one(
    rows: Tensor,
    low: Tensor,
    weights: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    out_features: Sequence[int],
    biases: Sequence[Tensor | None],
    lora_b: Sequence[Tensor],
) -> Tensor:
    features, rank = rows.shape[1], low.shape[1]
    one = None
    if has_room_beside(features, rank, rows.dtype):
        given = out_features, features, block_size, quant_type, rows.dtype
        copied = len(rows), features + rank
        one = joined(of_each(weights, len(out_features)), *given, beside=rank, copy=copied)
    if one is None:
        apart = _each_product(rows, low, weights, block_size, quant_type, out_features, biases, lora_b)
        return torch.cat(apart, dim=1)
    whole, copy = one
    _put_side_by_side(lora_b, whole[:, features:])
    torch.cat([rows, low], dim=1, out=copy)
    return linear(copy, whole, _bias_of_all(biases, out_features, rows))


@adapted_4bit.register_fake
def _(
    x: Tensor,
    lora_a: Tensor,
    low_rank: Tensor,
    weights: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    out_features: Sequence[int],
    biases: Sequence[Tensor | None],
    lora_b: Sequence[Tensor],
    in_one: bool,
) -> list[Tensor]:
    lengths = [sum(out_features)] if in_one else out_features
    return [x.new_empty([*x.shape[:-1], length]) for length in lengths]


def _put_side_by_side(lora_b: Sequence[Tensor], room: Tensor) -> None:
    """Each B beside the weight that it belongs to, zeros beside the others.

    room: dtype [out_features of all, r of all]
    """
    if len(lora_b) > 1:
        room.zero_()
    row = column = 0
    for b in lora_b:
        room[row : row + b.shape[0], column : column + b.shape[1]].copy_(b)
        row, column = row + b.shape[0], column + b.shape[1]


def _bias_of_all(biases: Sequence[Tensor | None], out_features: Sequence[int], rows: Tensor) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    return torch.cat(
        [
            rows.new_zeros(features) if bias is None else bias
            for bias, features in zip(biases, out_features, strict=True)
        ]
    )


@operation_without_gradient("qlora::adapted_4bit_grad_input")
def adapted_4bit_grad_input(
    grad: Tensor,
    grad_low_rank: Tensor,
    lora_a: Tensor,
    weights: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    out_features: Sequence[int],
) -> Tensor:
    """grad W, W all weights one below the other, and grad_low_rank A. Opaque, as `linear_4bit_grad_input` is.

    grad:          dtype [..., out_features of all weights]
    grad_low_rank: dtype [..., r of all]
    returns:       dtype [..., in_features]; rounded after each summand where these are made apart. Long as it
                   is, it is written once, for a copy of grad
    """
    rows, low = flat(grad), flat(grad_low_rank)
    features, each = lora_a.shape[1], of_each(weights, len(out_features))
    given = out_features, features, block_size, quant_type, grad.dtype
    shape = [*grad.shape[:-1], features]
    if is_wide(features, rows.shape[1]):
        height, rank = rows.shape[1], low.shape[1]
        with_a = joined(each, *given, below=rank, copy=(len(rows), height + rank))
        if with_a is not None:
            whole, copy = with_a
            whole[height:].copy_(lora_a)
            torch.cat([rows, low], dim=1, out=copy)
            return (copy @ whole).view(shape)
    made = low @ lora_a
    # The large product reads what it adds to behind its own work.
    if (one := joined(each, *given)) is not None:
        return made.addmm_(rows, one[0]).view(shape)
    for part, weight in zip(torch.split(rows, list(out_features), dim=1), each, strict=True):
        made.addmm_(part, dequantized(weight, block_size, quant_type, (part.shape[1], features), grad.dtype))
    return made.view(shape)


@register_fake("qlora::adapted_4bit_grad_input")
def _(grad: Tensor, grad_low_rank: Tensor, lora_a: Tensor, *others: Any) -> Tensor:
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
    x, lora_a, low_rank, weights, ctx.block_size, ctx.quant_type, out_features, biases, lora_b, _ = inputs
    ctx.adapters, ctx.out_features = len(lora_b), list(out_features)
    # torch asks for a list where it was given a list of tensors, and for None where one of them was None.
    ctx.no_grad_biases = None if any(bias is None for bias in biases) else [None] * len(biases)
    ctx.save_for_backward(x, lora_a, low_rank, *lora_b, *weights)


def _backward(ctx: Any, grads_of_outputs: Sequence[Tensor]) -> tuple[Any, ...]:
    x, lora_a, low_rank, *others = ctx.saved_tensors
    lora_b, weights = others[: ctx.adapters], others[ctx.adapters :]
    x_wanted, a_wanted, _, _, _, _, _, _, b_wanted, _ = ctx.needs_input_grad
    grad = side_by_side(grads_of_outputs) if len(grads_of_outputs) > 1 else grads_of_outputs[0]
    grads = torch.split(grad, ctx.out_features, dim=-1)
    grad_low_rank = gradient_of_low_rank(grads, lora_b)
    grad_x = None
    if x_wanted:
        grad_x = adapted_4bit_grad_input(
            grad, grad_low_rank, lora_a, weights, ctx.block_size, ctx.quant_type, ctx.out_features
        )
    grad_a, grad_b = gradients_of_adapters(grads, grad_low_rank, x, low_rank, lora_b, a_wanted, b_wanted)
    no_grads = [None] * len(weights), None, None, None, ctx.no_grad_biases
    return grad_x, grad_a, None, *no_grads, grad_b, None


adapted_4bit.register_autograd(_backward, setup_context=_save)
