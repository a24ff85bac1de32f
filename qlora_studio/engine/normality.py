"""Whether numbers look drawn from a normal distribution: the Shapiro-Wilk test, many samples at once.

source: Royston, Applied Statistics 44 (1995), algorithm AS R94, for 12 to 5,000 numbers a sample
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

FEWEST, MOST = 12, 5_000
# Polynomials from the highest power to the lowest.
_LAST = (-2.706056, 4.434685, -2.07119, -0.147981, 0.221157)
_LAST_BUT_ONE = (-3.582633, 5.682633, -1.752461, -0.293762, 0.042981)
_MEAN = (0.0038915, -0.083751, -0.31082, -1.5861)
_DEVIATION = (0.0030302, -0.082676, -0.4803)


def shapiro_wilk(samples: Tensor) -> tuple[Tensor, Tensor]:
    """W and its p-value for each sample; a sample of equal numbers has W = 1 and p = 1.

    samples: float [n, size]; of more than 5,000 numbers 5,000 at even distances are taken
    returns: float64 [n] twice
    """
    size = samples.shape[1]
    if size > MOST:
        samples = samples[:, torch.linspace(0, size - 1, MOST, device=samples.device).long()]
        size = MOST
    if size < FEWEST:
        raise ValueError(f"a sample has {size} numbers; the approximation begins at {FEWEST}")
    w = statistic(samples)
    log_size = math.log(size)
    mean, deviation = _at(_MEAN, log_size), math.exp(_at(_DEVIATION, log_size))
    z = (torch.log((1 - w).clamp(min=1e-300)) - mean) / deviation
    return w, 1 - torch.special.ndtr(z)


def statistic(samples: Tensor) -> Tensor:
    """W: float64 [n], near 1 where the sorted numbers lie as those of a normal distribution do.

    samples: float [n, size], size at least 6
    """
    ordered = samples.double().sort(dim=-1).values
    centred = ordered - ordered.mean(dim=-1, keepdim=True)
    weights = torch.tensor(_weights(samples.shape[1]), dtype=torch.float64, device=samples.device)
    spread = centred.square().sum(dim=-1)
    w = (centred @ weights).square() / spread.clamp(min=1e-300)
    return torch.where(spread > 0, w.clamp(max=1.0), torch.ones_like(w))


@cache
def _weights(size: int) -> tuple[float, ...]:
    """Of the sorted numbers, ascending; odd about the middle, their squares add up to 1."""
    quantile = NormalDist().inv_cdf
    scores = [quantile((rank - 0.375) / (size + 0.25)) for rank in range(1, size + 1)]
    total = sum(score * score for score in scores)
    u = 1 / math.sqrt(size)
    last = _at((*_LAST, scores[-1] / math.sqrt(total)), u)
    but_one = _at((*_LAST_BUT_ONE, scores[-2] / math.sqrt(total)), u)
    rest = total - 2 * scores[-1] ** 2 - 2 * scores[-2] ** 2
    scale = math.sqrt(rest / (1 - 2 * last**2 - 2 * but_one**2))
    return (-last, -but_one, *(score / scale for score in scores[2:-2]), but_one, last)


def _at(coefficients: tuple[float, ...], x: float) -> float:
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
