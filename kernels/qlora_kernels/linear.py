"""The product of a frozen 4-bit weight and its adapter, with a backward that never keeps the weight."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from qlora_kernels.cuda import few_rows
from qlora_kernels.dequantize import dequantize_4bit
from qlora_kernels.triton import dequantize_on_card


def linear_4bit_directly(
    x: Tensor,
    weight: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    bias: Tensor | None,
    low_rank: Tensor | None,
    lora_b: Tensor | None,
) -> Tensor:
    """x W^T + bias + low_rank B^T, W frozen.

    One opaque operation: what lies between W's codes and the product is never saved, neither by autograd nor
    by a compiler's partitioner. low_rank = scaling * dropout(x) A^T is made outside, so that checkpointing
    recomputes it alone and not the whole product.

    x:        dtype [..., in_features]; its dtype is the one computed in
    weight:   codes and scales as `Quantized4bit.tensors` gives them; or W alone, dequantized, dtype [*shape]
    shape:    out_features, in_features
    bias:     dtype [out_features]; gets no gradient
    low_rank: dtype [..., r]
    lora_b:   any float dtype [out_features, r]
    returns:  dtype [..., out_features]; the adapter's part is added to the rounded rest, as peft does it, but
              on a card the rest to the rounded adapter's part
    """
    if few_rows.takes(x, weight, block_size, shape[1]):
        factor = few_rows.Factor(weight, shape[0], bias, [few_rows.Adapter(low_rank, lora_b=lora_b)])
        return few_rows.products(x, [factor], block_size, quant_type)[0]
    rows = flat(x)
    with torch.autocast(x.device.type, enabled=False):
        whole = dequantized(weight, block_size, quant_type, shape, x.dtype)
        made = product(rows, whole, bias, None if low_rank is None else flat(low_rank), lora_b)
    return shaped_like(x, made)


# What is done directly can't be differentiated or compiled, and spares Python torch's dispatcher.
linear_4bit = torch.library.custom_op("qlora::linear_4bit", mutates_args=())(linear_4bit_directly)


@linear_4bit.register_fake
def _(
    x: Tensor,
    weight: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    bias: Tensor | None,
    low_rank: Tensor | None,
    lora_b: Tensor | None,
) -> Tensor:
    return x.new_empty([*x.shape[:-1], shape[0]])


@torch.library.custom_op("qlora::linear_4bit_grad_input", mutates_args=())
def linear_4bit_grad_input(
    grad: Tensor, weight: Sequence[Tensor], block_size: int, quant_type: str, shape: Sequence[int]
) -> Tensor:
    """grad W. Opaque too: a compiler that saw W here might make it in the forward pass and save it.

    grad:    dtype [..., out_features]
    returns: dtype [..., in_features]
    """
    product = flat(grad) @ dequantized(weight, block_size, quant_type, shape, grad.dtype)
    return product.view(*grad.shape[:-1], shape[1])


@linear_4bit_grad_input.register_fake
def _(
    grad: Tensor, weight: Sequence[Tensor], block_size: int, quant_type: str, shape: Sequence[int]
) -> Tensor:
    return grad.new_empty([*grad.shape[:-1], shape[1]])


def product(
    rows: Tensor, weight: Tensor, bias: Tensor | None, low_rank: Tensor | None, lora_b: Tensor | None
) -> Tensor:
    """rows W^T + bias + low_rank B^T, [rows, out_features]; without the last where one of the two is None.

    weight: dtype [out_features, in_features], and the rest as `linear_4bit` has it
    """
    if low_rank is None or lora_b is None:
        return linear(rows, weight, bias)
    if rows.is_cuda:
        # The large product reads what it adds to behind its own work; the small one would wait for it.
        return linear(low_rank, lora_b.to(rows.dtype), bias).addmm_(rows, weight.t())
    return linear(rows, weight, bias).addmm_(low_rank, lora_b.to(rows.dtype).t())


def of_each(weights: Sequence[Tensor], count: int) -> list[Sequence[Tensor]]:
    """The tensors of each of so many weights, of which all have as many, one after the other."""
    parts = len(weights) // count
    return [weights[at : at + parts] for at in range(0, len(weights), parts)]


def flat(tensor: Tensor) -> Tensor:
    """[..., n] as [rows, n]."""
    return tensor.reshape(-1, tensor.shape[-1])


def shaped_like(x: Tensor, rows: Tensor) -> Tensor:
    """[rows, n] as [..., n], as x is. No view to autograd, which lets nobody change one that an operation
    returns: OLMo clips queries where they lie.
    """
    shaped: Tensor = torch.ops.aten._unsafe_view.default(rows, [*x.shape[:-1], rows.shape[-1]])
    return shaped


def dequantized(
    weight: Sequence[Tensor], block_size: int, quant_type: str, shape: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """A weight as `linear_4bit` takes it, dtype [*shape]; on a card until the next one. There past torch's
    dispatcher: a product of a short batch is done before Python has begun the next.
    """
    if len(weight) == 1:
        return weight[0][: shape[0], : shape[1]]  # without the room that it may have, see `joined`
    packed, absmax, *nested = weight
    dequantize = partial(dequantize_on_card, for_now=True) if packed.is_cuda else dequantize_4bit
    made: Tensor = dequantize(packed, absmax, block_size, quant_type, shape, dtype, *nested)
    return made


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, weight, ctx.block_size, ctx.quant_type, ctx.shape, _, low_rank, lora_b = inputs
    ctx.save_for_backward(low_rank, lora_b, *weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    low_rank, lora_b, *weight = ctx.saved_tensors
    x_wanted, *_, low_rank_wanted, lora_b_wanted = ctx.needs_input_grad
    grad_x = grad_low_rank = grad_lora_b = None
    if x_wanted:
        grad_x = linear_4bit_grad_input(grad, weight, ctx.block_size, ctx.quant_type, ctx.shape)
    if low_rank_wanted:
        grad_low_rank = grad @ lora_b.to(grad.dtype)
    if lora_b_wanted:
        grad_lora_b = (flat(grad).t() @ flat(low_rank)).to(lora_b.dtype)
    return grad_x, [None] * len(weight), None, None, None, None, grad_low_rank, grad_lora_b


linear_4bit.register_autograd(_backward, setup_context=_save_inputs)


def low_rank_product_directly(x: Tensor, lora_a: Tensor, scaling: float) -> Tensor:
    """scaling * x A^T, where nothing is learned. One kernel on a card where x has few rows.

    x:       dtype [..., in_features]
    lora_a:  any float dtype [r, in_features]
    returns: dtype [..., r]
    """
    if few_rows.takes_low_rank(x, lora_a):
        return few_rows.low_rank(x, lora_a, scaling)
    if x.is_cuda:  # Python is what a prompt waits for there: one kernel less
        rows = flat(x)
        added_to = rows[:1, :1]  # 0 times
        return shaped_like(x, torch.addmm(added_to, rows, lora_a.to(x.dtype).t(), beta=0, alpha=scaling))
    return linear(x, lora_a.to(x.dtype)) * scaling


low_rank_product = torch.library.custom_op("qlora::low_rank_product", mutates_args=())(
    low_rank_product_directly
)


@low_rank_product.register_fake
def _(x: Tensor, lora_a: Tensor, scaling: float) -> Tensor:
    return x.new_empty([*x.shape[:-1], lora_a.shape[0]])


def linears_4bit_directly(
    x: Tensor,
    weights: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    out_features: Sequence[int],
    biases: Sequence[Tensor | None],
    lora_a: Sequence[Tensor | None],
    lora_b: Sequence[Tensor | None],
    scalings: Sequence[float],
) -> list[Tensor]:
    """Each weight's x W^T + bias + scaling * x A^T B^T, where nothing is learned. One kernel on a card where
    x has few rows: a small weight alone doesn't fill it.

    x:            dtype [..., in_features]
    weights:      codes and scales of each as `Quantized4bit.tensors` gives them, one after the other
    out_features: of each; so many weights there are
    biases:       dtype [out_features] of each, or None
    lora_a:       any float dtype [r, in_features] of each, or None: no adapter; r may differ. Or as many for
                  each as x has rows: then every row has an adapter of its own, or none
    lora_b:       any float dtype [out_features, r] of each, or None; scalings as many
    returns:      dtype [..., out_features] of each

    Where scales are quantized again, one code (`NestedAbsmax.code`) serves all of these weights.
    """
    count = len(out_features)
    own = len(lora_a) // count
    assert own in (1, x.numel() // x.shape[-1]), "an adapter for all rows, or for each"
    tensors = of_each(weights, count)
    adapters = [few_rows.Adapter(None, *each) for each in zip(lora_a, lora_b, scalings, strict=True)]
    factors = [
        few_rows.Factor(weight, rows, bias, adapters[at * own : (at + 1) * own])
        for at, (weight, rows, bias) in enumerate(zip(tensors, out_features, biases, strict=True))
    ]
    if count <= few_rows.MOST_WEIGHTS and few_rows.takes(x, tensors[0], block_size, x.shape[-1]):
        return few_rows.products(x, factors, block_size, quant_type)
    return [_product_of(x, factor, block_size, quant_type) for factor in factors]


def _product_of(x: Tensor, factor: few_rows.Factor, block_size: int, quant_type: str) -> Tensor:
    """In plain steps."""
    shape = [factor.out_features, x.shape[-1]]
    if len(factor.adapters) > 1:
        alone = linear_4bit_directly(
            x, factor.tensors, block_size, quant_type, shape, factor.bias, None, None
        )
        for row, rows, adapter in zip(flat(x), flat(alone), factor.adapters, strict=True):
            if adapter.lora_a is not None and adapter.lora_b is not None:
                of_row = low_rank_product_directly(row[None], adapter.lora_a, adapter.scaling)
                rows += linear(of_row, adapter.lora_b.to(x.dtype))[0]
        return alone
    (adapter,) = factor.adapters
    a, b, scaling = adapter.lora_a, adapter.lora_b, adapter.scaling
    low_rank = None if a is None else low_rank_product_directly(x, a, scaling)
    return linear_4bit_directly(x, factor.tensors, block_size, quant_type, shape, factor.bias, low_rank, b)


linears_4bit = torch.library.custom_op("qlora::linears_4bit", mutates_args=())(linears_4bit_directly)


@linears_4bit.register_fake
def _(
    x: Tensor,
    weights: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    out_features: Sequence[int],
    biases: Sequence[Tensor | None],
    lora_a: Sequence[Tensor | None],
    lora_b: Sequence[Tensor | None],
    scalings: Sequence[float],
) -> list[Tensor]:
    return [x.new_empty([*x.shape[:-1], rows]) for rows in out_features]
