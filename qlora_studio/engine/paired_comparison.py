"""Two models on the same questions: whether one is better, or only luckier."""

from __future__ import annotations

import math

import numpy as np

RESAMPLES = 10_000
_SEED = 0  # the same answers give the same interval


def difference_interval(gained: int, lost: int, questions: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares of right answers: a paired bootstrap over the questions.

    gained, lost: questions that only the second, and only the first model answers right
    returns:      shares, second less first: the 2.5th and 97.5th percentile of 10,000 resamples
    source:       Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. A question adds
                  1, -1 or 0 to the difference, so to draw questions is to draw how often each of these comes.
    """
    shares = np.array([gained, lost, questions - gained - lost]) / questions
    drawn = np.random.default_rng(_SEED).multinomial(questions, shares, size=RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / questions, [2.5, 97.5])
    return float(low), float(high)


def mcnemar_p(gained: int, lost: int) -> float:
    """How likely so uneven a split is where both models are equally good: two-sided, exact.

    source: McNemar, Psychometrika 12 (1947), with the binomial distribution in place of chi-squared
    """
    changed = gained + lost
    ways = math.lgamma(changed + 1) - changed * math.log(2)
    tail = math.fsum(
        math.exp(ways - math.lgamma(k + 1) - math.lgamma(changed - k + 1))
        for k in range(min(gained, lost) + 1)
    )
    return min(1.0, 2 * tail)
