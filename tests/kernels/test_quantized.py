"""Our 4-bit weights against bitsandbytes', bit for bit."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes import functional as bnb
from qlora_kernels import Quantized4bit, quantize_4bit
from qlora_kernels.codebooks import dynamic_8bit_code, four_bit_code

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def weight(*shape, dtype=torch.float32):
    torch.manual_seed(0)
    spread = torch.rand(shape[0], 1) + 0.5
    return (torch.randn(shape) * spread).to(dtype)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_codebooks_are_those_of_bitsandbytes(quant_type):
    assert torch.equal(four_bit_code(quant_type, CPU), bnb.get_4bit_type(quant_type, device="cpu"))
    assert torch.equal(dynamic_8bit_code(CPU), bnb.create_dynamic_map())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_what_we_quantize_is_what_bitsandbytes_quantizes(quant_type, double_quant, dtype):
    original = weight(192, 320, dtype=dtype)
    original[3] = 0  # a block of zeros
    packed, state = quantize_4bit(original, quant_type, 64, double_quant).to_bitsandbytes(dtype)

    expected, expected_state = bnb.quantize_4bit(
        original, blocksize=64, compress_statistics=double_quant, quant_type=quant_type
    )

    assert torch.equal(packed, expected)
    ours, theirs = state.as_dict(packed=True), expected_state.as_dict(packed=True)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("block_size", [64, 128])
def test_what_bitsandbytes_quantized_we_read(quant_type, double_quant, block_size, dtype):
    packed, state = bnb.quantize_4bit(
        weight(64, 384), blocksize=block_size, compress_statistics=double_quant, quant_type=quant_type
    )
    state.dtype = dtype
    ours = Quantized4bit.from_bitsandbytes(packed, state).dequantize(dtype)
    assert torch.equal(ours, bnb.dequantize_4bit(packed, state))


def test_what_we_quantized_bitsandbytes_reads():
    ours = quantize_4bit(weight(64, 384))
    assert torch.equal(
        bnb.dequantize_4bit(*ours.to_bitsandbytes(torch.float32)), ours.dequantize(torch.float32)
    )


def test_packed_codes_stored_as_another_dtype_are_read_too():
    original = weight(64, 64)
    packed, state = bnb.quantize_4bit(original, quant_type="nf4", quant_storage=torch.bfloat16)
    plain, plain_state = bnb.quantize_4bit(original, quant_type="nf4")
    assert torch.equal(
        Quantized4bit.from_bitsandbytes(packed, state).dequantize(torch.float32),
        Quantized4bit.from_bitsandbytes(plain, plain_state).dequantize(torch.float32),
    )


@pytest.mark.parametrize("shape", [(5, 7), (33, 96), (1, 65)])
def test_a_size_that_no_block_divides_comes_back_within_the_codes_width(shape):
    original = weight(*shape)
    back = quantize_4bit(original, double_quant=False).dequantize(torch.float32)
    widest_gap = 0.31 / 2  # half of NF4's widest gap, of the block's largest magnitude
    assert back.shape == shape
    assert (back - original).abs().max() < widest_gap * original.abs().max()


def test_a_weight_repacked_for_cpu_inference_is_refused():
    packed, state = bnb.quantize_4bit(weight(64, 64), quant_type="nf4")
    state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match="repacked"):
        Quantized4bit.from_bitsandbytes(packed, state)
