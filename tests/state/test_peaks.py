"""A long series drawn by its peaks shows what all of its points would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.state.peaks import Peaks

EMPTY = Peaks(np.empty(0))


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(size=100_000)


def test_few_points_are_all_drawn(noise):
    peaks = EMPTY.grown(noise)
    assert peaks.between(10, 60, columns=40).tolist() == list(range(10, 60))


def test_many_points_become_two_a_column_in_their_order(noise):
    places = EMPTY.grown(noise).between(0, len(noise), columns=700)
    assert len(places) <= 2 * 700
    assert (np.diff(places) > 0).all()


@given(st.integers(0, 99_999), st.integers(1, 2_000), st.integers(20, 900))
def test_no_peak_in_sight_is_lost(first, blocks, columns):
    values = np.random.default_rng(1).normal(size=100_000)
    last = min(first + blocks * 37, len(values))
    seen = values[EMPTY.grown(values).between(first, last, columns)]
    assert seen.max() >= values[first:last].max()
    assert seen.min() <= values[first:last].min()


@pytest.mark.parametrize("pieces", [(1, 2, 9), (7, 8, 64, 65), (1_000, 50_001, 99_999)])
def test_a_series_that_grew_in_pieces_is_the_same_as_one_made_at_once(noise, pieces):
    peaks = EMPTY
    for end in (*pieces, len(noise)):
        peaks = peaks.grown(noise[:end])
    at_once = EMPTY.grown(noise)
    for columns in (50, 333, 5_000):
        assert (peaks.between(0, len(noise), columns) == at_once.between(0, len(noise), columns)).all()


def test_growing_leaves_the_one_before_as_it_was(noise):
    before = EMPTY.grown(noise[:5_000])
    drawn = before.between(0, 5_000, 100)
    before.grown(noise)
    assert (before.between(0, 5_000, 100) == drawn).all()


def test_what_is_no_number_hides_no_peak(noise):
    noise[::3] = np.nan
    noise[50_001] = 99.0
    places = EMPTY.grown(noise).between(0, len(noise), columns=200)
    assert 50_001 in places
    assert np.isfinite(noise[places]).all()


def test_a_stretch_without_numbers_stays_a_gap(noise):  # R12
    noise[20_000:40_000] = np.nan
    places = EMPTY.grown(noise).between(0, len(noise), columns=200)
    inside = places[(places > 20_500) & (places < 39_500)]
    assert len(inside) and np.isnan(noise[inside]).all()


def test_the_highest_alone_are_one_a_column(noise):
    places = EMPTY.grown(noise).highest(0, len(noise), columns=300)
    assert len(places) <= 300
    assert noise.argmax() in places
