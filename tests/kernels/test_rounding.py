"""Rounding a weight to the values of a code, and the values of NormalFloat from the normal distribution."""

from __future__ import annotations

import pytest
import torch
from qlora_kernels import quantize_4bit
from qlora_kernels.codebooks import FP4_VALUES, NF4_VALUES, even_values, normal_float_values
from qlora_kernels.rounding import round_to_values, stored_bits

# As the paper prints them: QLoRA, arXiv:2305.14314, appendix E.
APPENDIX_E = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


def test_the_values_of_nf4_are_quantiles_of_a_normal_distribution_as_the_appendix_has_them():
    assert normal_float_values() == pytest.approx(APPENDIX_E, abs=1e-6)
    assert NF4_VALUES == APPENDIX_E


def test_normal_float_of_any_width_is_ascending_from_minus_one_to_one_with_an_exact_zero():
    for bits in (2, 3, 5, 8):
        values = normal_float_values(bits)
        assert len(values) == 2**bits
        assert list(values) == sorted(set(values))
        assert (values[0], values[-1]) == (-1.0, 1.0)
        assert 0.0 in values


def test_an_integer_of_four_bits_has_fifteen_values_at_even_steps():
    assert even_values(4) == pytest.approx([step / 7 for step in range(-7, 8)])
    assert len(even_values(8)) == 255


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", [(96, 128), (7, 33)])
@pytest.mark.parametrize(("quant_type", "values"), [("nf4", NF4_VALUES), ("fp4", FP4_VALUES)])
def test_a_weight_is_rounded_as_it_is_in_training(quant_type, values, shape, double_quant):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    weight[0, :16] = 0
    ascending = tuple(sorted(set(values)))
    rounded = round_to_values(weight, ascending, 64).weight(double_quant)
    trained = quantize_4bit(weight, quant_type, 64, double_quant).dequantize(torch.float32)
    torch.testing.assert_close(rounded, trained, rtol=0, atol=0)


def test_nf4_rounds_normal_numbers_better_than_fp4_and_even_steps_do():
    weight = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
    errors = {}
    for name, values in (("nf4", NF4_VALUES), ("fp4", FP4_VALUES), ("int4", even_values(4))):
        ascending = tuple(sorted(set(values)))
        errors[name] = float((round_to_values(weight, ascending, 64).weight(False) - weight).norm())
    assert errors["nf4"] < errors["int4"]
    assert errors["nf4"] < errors["fp4"]


def test_double_quantization_saves_0_373_bits_a_weight():
    weights = 4096 * 4096
    single, double = (stored_bits(weights, 4, 64, on) / weights for on in (False, True))
    assert single == 4.5
    assert double == pytest.approx(4.127, abs=5e-4)
    assert single - double == pytest.approx(0.373, abs=5e-4)


def test_a_layer_that_ends_within_a_block_pays_for_the_whole_scale():
    assert stored_bits(65, 4, 64, False) == 65 * 4 + 2 * 32
    assert stored_bits(65, 4, 64, True) == 65 * 4 + 2 * 8 + 2 * 32
