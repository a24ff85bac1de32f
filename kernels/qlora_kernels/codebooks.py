"""The numbers that 4-bit and 8-bit codes stand for: NF4, FP4 and the 8-bit code of the scales."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

# The 16 quantiles of a normal distribution, scaled to [-1, 1]. QLoRA, arXiv:2305.14314, appendix E.
NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def normal_float_values(bits: int = 4) -> tuple[float, ...]:
    """NormalFloat: what NF4_VALUES are for 4 bits, derived.

    Both halves of a normal distribution are cut at equal steps of probability, one into a value less than the
    other; 0 is exact, the largest is 1. The outermost step keeps its mean distance from 0 and 1 over the two
    halves, as their quantiles would be infinite.

    returns: 2 ** bits values, ascending
    source:  QLoRA, arXiv:2305.14314, section 3 and appendix E
    """
    half = 2 ** (bits - 1)
    outermost = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    quantile = NormalDist().inv_cdf
    below = [-quantile(_between(outermost, 0.5, step / (half - 1))) for step in range(half - 1)]
    above = [quantile(_between(outermost, 0.5, step / half)) for step in range(half)]
    largest = above[0]
    return tuple(value / largest for value in (*below, 0.0, *reversed(above)))


def even_values(bits: int) -> tuple[float, ...]:
    """The values of a symmetric integer, -1 to 1 at even steps: 2 ** bits - 1 of them, so that 0 is one."""
    most = 2 ** (bits - 1) - 1
    return tuple(level / most for level in range(-most, most + 1))


# Sign, two bits of exponent, one of fraction; in the order of the codes, so not sorted.
FP4_VALUES = tuple(
    sign * magnitude / 12.0 for sign in (1, -1) for magnitude in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
)


def _between(first: float, last: float, share: float) -> float:
    return first + (last - first) * share


@cache
def four_bit_code(quant_type: str, device: torch.device) -> Tensor:
    """float32 [16]: what each 4-bit code stands for. Shared: don't write to it."""
    values = {"nf4": NF4_VALUES, "fp4": FP4_VALUES}[quant_type]
    return torch.tensor(values, dtype=torch.float32, device=device)


@cache
def four_bit_pairs(quant_type: str, device: torch.device) -> Tensor:
    """float32 [256, 2]: the two values that a byte of packed codes stands for. Shared: don't write to it."""
    byte = torch.arange(256, device=device)
    return four_bit_code(quant_type, device)[torch.stack((byte >> 4, byte & 0xF), dim=-1)]


@cache
def dynamic_8bit_code(device: torch.device) -> Tensor:
    """float32 [256], sorted: a sign, up to seven decades, and the more fraction bits the larger the value.

    source: 8-bit approximations for parallelism in deep learning, arXiv:1511.04561
    """
    values = [0.0, 1.0]
    for fraction_bits in range(7):
        edges = torch.linspace(0.1, 1, 2**fraction_bits + 1, dtype=torch.float32)
        means = (edges[:-1] + edges[1:]) / 2.0
        decade = 10 ** (fraction_bits - 6)
        values += (decade * means).tolist()
        values += (-decade * means).tolist()
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)
