"""The operations as torch sees them: schema, shapes, gradients, and under its compiler."""

from __future__ import annotations

import pytest
import torch
from qlora_kernels import dequantize_4bit, linear_4bit, quantize_4bit
from qlora_kernels.linear import linear_4bit_grad_input
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint


@pytest.fixture(autouse=True)
def _on_the_card_where_there_is_one():
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield


def arguments(*, dtype=torch.float32, double_quant=True, kept=False, adapter=True, bias=True):
    quantized = quantize_4bit(torch.randn(128, 64), double_quant=double_quant)
    return (
        torch.randn(2, 3, 64, dtype=dtype, requires_grad=True),
        [quantized.dequantize(dtype)] if kept else quantized.tensors,
        quantized.block_size,
        quantized.quant_type,
        quantized.shape,
        torch.randn(128, dtype=dtype) if bias else None,
        torch.randn(2, 3, 8, dtype=dtype, requires_grad=True) if adapter else None,
        torch.randn(128, 8, requires_grad=True) if adapter else None,
    )


def plain_linear_4bit(x, weight, block_size, quant_type, shape, bias, low_rank, lora_b):
    packed, absmax, *nested = weight
    dequantized = dequantize_4bit(packed, absmax, block_size, quant_type, shape, x.dtype, *nested)
    return linear(x, dequantized, bias) + linear(low_rank, lora_b.to(x.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double_quant", [True, False])
def test_opcheck_of_dequantize(double_quant, dtype):
    quantized = quantize_4bit(torch.randn(128, 64), double_quant=double_quant)
    packed, absmax, *nested = quantized.tensors
    torch.library.opcheck(dequantize_4bit, (packed, absmax, 64, "nf4", (128, 64), dtype, *nested))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"double_quant": False},
        {"kept": True},
        {"adapter": False, "bias": False},
        {"dtype": torch.bfloat16},
    ],
)
def test_opcheck_of_the_product(options):
    torch.library.opcheck(linear_4bit, arguments(**options))


@pytest.mark.parametrize("kept", [True, False])
def test_opcheck_of_the_products_backward(kept):
    _, weight, *rest, _, _, _ = arguments(kept=kept)
    torch.library.opcheck(linear_4bit_grad_input, (torch.randn(2, 3, 128), weight, *rest))


def test_product_and_gradients_are_those_of_plain_torch():
    x, *middle, low_rank, lora_b = arguments()
    wanted = (x, low_rank, lora_b)
    ours, theirs = linear_4bit(x, *middle, low_rank, lora_b), plain_linear_4bit(x, *middle, low_rank, lora_b)
    grad = torch.randn_like(ours)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, wanted, grad), torch.autograd.grad(theirs, wanted, grad)
    )


def test_neither_the_weight_nor_the_input_is_saved_for_backward():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        linear_4bit(*arguments())
    assert (128, 64) not in saved
    assert (2, 3, 64) not in saved
    assert (2, 3, 8) in saved


def test_checkpointing_recomputes_the_same_gradients():
    arguments_ = arguments()
    wanted = (arguments_[0], *arguments_[-2:])
    plain = torch.autograd.grad(linear_4bit(*arguments_).square().sum(), wanted)
    recomputed = checkpoint(linear_4bit, *arguments_, use_reentrant=False)
    again = torch.autograd.grad(recomputed.square().sum(), wanted)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_the_compiler_takes_the_product_whole():
    arguments_ = arguments()
    wanted = (arguments_[0], *arguments_[-2:])
    plain = torch.autograd.grad(linear_4bit(*arguments_).square().sum(), wanted)
    compiled = torch.compile(lambda *a: linear_4bit(*a).square().sum(), backend="aot_eager", fullgraph=True)
    again = torch.autograd.grad(compiled(*arguments_), wanted)
    torch.testing.assert_close(plain, again)
