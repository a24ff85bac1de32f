"""The smoothed curve is the textbook's, however it comes in pieces."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qlora_studio.state.smoothing import Smoothing


def by_hand(values, weight):
    total, count, smooth = 0.0, 0, []
    for value in values:
        if math.isnan(value):
            smooth.append(math.nan)
            continue
        count += 1
        total = weight * total + (1 - weight) * value
        smooth.append(total / (1 - weight**count))
    return smooth


@pytest.fixture
def losses():
    values = np.random.default_rng(0).normal(1.5, 0.2, size=3_000)
    values[[5, 6, 700]] = np.nan
    return values


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9, 0.97, 0.999])
def test_it_is_the_bias_corrected_average(losses, weight):
    smooth = Smoothing(weight).next(losses)
    assert np.allclose(smooth, by_hand(losses, weight) if weight else losses, equal_nan=True, atol=1e-9)


def test_pieces_give_what_the_whole_gives(losses):
    whole, pieces = Smoothing(0.97), Smoothing(0.97)
    joined = np.concatenate([pieces.next(losses[:1]), pieces.next(losses[1:800]), pieces.next(losses[800:])])
    assert np.allclose(joined, whole.next(losses), equal_nan=True)


def test_the_first_value_stands_for_itself():
    assert Smoothing(0.97).next(np.array([2.5]))[0] == pytest.approx(2.5)


def test_a_loss_that_is_no_number_is_a_gap_and_no_average(losses):  # R12
    smooth = Smoothing(0.97).next(losses)
    assert np.isnan(smooth[[5, 6, 700]]).all()
    assert np.isfinite(smooth[[4, 7, 701]]).all()
