"""Products in e4m3: as near to exact ones as 8 bit allow, with the gradients of what was multiplied."""

from __future__ import annotations

import pytest
import torch
from qlora_kernels import quantize_4bit
from qlora_kernels.fp8 import (
    E4M3,
    LARGEST,
    fp8_weight,
    linear_fp8,
    linear_fp8_grad_input,
    refused,
    room_for_rounded,
    rounded_weight,
    row_scales,
    scaled,
)

CHECKED = ("test_autograd_registration", "test_faketensor")  # the others multiply e4m3 itself
ROUNDED = 2**-4  # e4m3 has three bits behind the first


@pytest.fixture(autouse=True)
def _on_the_card_where_there_is_one():
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield


def a_weight(rows=128, columns=192, double_quant=True, quant_type="nf4"):
    whole = torch.randn(rows, columns) * torch.logspace(-3, 1, rows)[:, None]
    return quantize_4bit(whole, quant_type, double_quant=double_quant)


def given(quantized):
    return quantized.block_size, quantized.quant_type, quantized.shape


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("double_quant", "quant_type"), [(True, "nf4"), (False, "nf4"), (True, "fp4")])
def test_a_weight_is_rounded_row_by_row(double_quant, quant_type, transposed):
    quantized = a_weight(double_quant=double_quant, quant_type=quant_type)
    scales = row_scales(quantized.tensors, *given(quantized))
    rounded = fp8_weight(quantized.tensors, scales, *given(quantized), transposed)
    assert rounded.dtype == E4M3
    assert rounded.is_contiguous()
    whole = (rounded.t() if transposed else rounded).float() * scales[:, None]
    wanted = quantized.dequantize(torch.float32)
    smallest = scales[:, None] * 2**-9  # what is smaller has fewer bits
    assert ((whole - wanted).abs() <= ROUNDED * wanted.abs() + smallest).all()
    assert (whole.abs().amax(dim=1) > 0.99 * wanted.abs().amax(dim=1)).all()


def test_for_a_product_it_is_the_same_and_on_a_card_in_a_place_that_all_share():
    quantized = a_weight()
    scales = row_scales(quantized.tensors, *given(quantized))
    for transposed in (False, True):
        rounded = rounded_weight(quantized.tensors, scales, *given(quantized), transposed=transposed)
        wanted = fp8_weight(quantized.tensors, scales, *given(quantized), transposed)
        assert torch.equal(rounded.float(), wanted.float())
        shared = room_for_rounded((128, 192), scales.device).data_ptr() == rounded.data_ptr()
        assert shared == scales.is_cuda


def test_rows_of_any_size_are_in_range():
    rows, scale = scaled(torch.tensor([[1e-30, 0.0], [3e38, -1e38], [0.0, 0.0]], dtype=torch.bfloat16))
    assert rows.float().abs().max() <= LARGEST
    assert torch.isfinite(rows.float() * scale).all()


def arguments(dtype=torch.bfloat16):
    quantized = a_weight()
    x = torch.randn(2, 8, 192, dtype=dtype, requires_grad=True)
    scales = row_scales(quantized.tensors, *given(quantized))
    return x, *scaled(x.detach()), quantized.tensors, scales, *given(quantized)


def test_opcheck():
    torch.library.opcheck(linear_fp8, arguments(), test_utils=CHECKED)


def test_opcheck_of_the_gradient_of_the_input():
    *_, weight, scales, block_size, quant_type, shape = arguments()
    rounded = scaled(torch.randn(2, 8, 128))
    given_ = (*rounded, weight, scales, block_size, quant_type, shape, torch.bfloat16)
    torch.library.opcheck(linear_fp8_grad_input, given_, test_utils=CHECKED)


def test_product_and_gradient_are_rounded_ones():
    x, *others = arguments()
    made = linear_fp8(x, *others)
    whole = quantize_of(others).to(x.dtype)
    plain = x.detach().requires_grad_()
    wanted = torch.nn.functional.linear(plain, whole)
    assert (made - wanted).norm() <= 0.05 * wanted.norm()
    grad = torch.randn_like(wanted)
    ours, theirs = torch.autograd.grad(made, x, grad)[0], torch.autograd.grad(wanted, plain, grad)[0]
    assert ours.dtype == x.dtype
    assert (ours - theirs).norm() <= 0.05 * theirs.norm()


def quantize_of(others):
    from qlora_kernels import dequantize_4bit

    _, _, (packed, absmax, *nested), _, block_size, quant_type, shape = others
    return dequantize_4bit(packed, absmax, block_size, quant_type, shape, torch.float32, *nested)


def test_neither_input_nor_weight_is_saved():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        linear_fp8(*arguments())
    assert not {(2, 8, 192), (128, 192)} & set(saved)


@pytest.mark.parametrize(("rows", "columns"), [(24, 64), (32, 96)])
def test_a_shape_that_it_doesnt_take_is_refused_in_words(rows, columns):
    quantized = quantize_4bit(torch.randn(rows, columns))
    assert f"{rows} x {columns}" in (refused(quantized.tensors, 64, (rows, columns)) or "")
