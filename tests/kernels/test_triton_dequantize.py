"""The Triton twin against the plain torch: on a card for real, elsewhere in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from qlora_kernels import dequantize_4bit, quantize_4bit

pytest.importorskip("triton", reason="triton isn't installed")

ON_CARD = torch.cuda.is_available()
DEVICE = "cuda" if ON_CARD else "cpu"


@pytest.fixture(scope="module")
def dequantize_4bit_triton():
    from qlora_kernels.triton.dequantize import dequantize_4bit_triton

    return dequantize_4bit_triton


def arguments(shape, quant_type, block_size, double_quant, dtype):
    torch.manual_seed(0)
    quantized = quantize_4bit(torch.randn(shape, device=DEVICE), quant_type, block_size, double_quant)
    packed, absmax, *nested = quantized.tensors
    return packed, absmax, block_size, quant_type, shape, dtype, *nested


def plain_torch(given):
    return dequantize_4bit(*(value.cpu() if isinstance(value, torch.Tensor) else value for value in given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize(
    ("shape", "block_size"), [((320, 192), 64), ((64, 512), 128), ((33, 96), 64), ((3, 7), 64)]
)
def test_it_is_equal_bit_for_bit(dequantize_4bit_triton, shape, block_size, quant_type, double_quant, dtype):
    given = arguments(shape, quant_type, block_size, double_quant, dtype)
    assert torch.equal(dequantize_4bit_triton(*given).cpu(), plain_torch(given))


@pytest.mark.parametrize(
    "shape", [(320, 192), (64, 512), (33, 96)], ids=["whole blocks", "several blocks", "parts of blocks"]
)
def test_rows_may_lie_apart_where_it_is_written(dequantize_4bit_triton, shape):
    given = arguments(shape, "nf4", 64, True, torch.float32)
    whole = torch.full((shape[0] + 1, shape[1] + 8), torch.nan, device=DEVICE)
    part = whole[: shape[0], : shape[1]]
    assert dequantize_4bit_triton(*given, into=part).data_ptr() == whole.data_ptr()
    assert torch.equal(part.cpu(), plain_torch(given))
    assert whole[:, shape[1] :].isnan().all()
    assert whole[shape[0]].isnan().all()


def test_in_bfloat16_it_is_equal_but_for_the_interpreters_rounding(dequantize_4bit_triton):
    given = arguments((320, 192), "nf4", 64, True, torch.bfloat16)
    tolerance = 0.0 if ON_CARD else 2**-7  # the interpreter cuts bits off where a card rounds
    torch.testing.assert_close(
        dequantize_4bit_triton(*given).cpu(), plain_torch(given), rtol=tolerance, atol=0.0
    )
