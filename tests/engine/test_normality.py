"""The Shapiro-Wilk test: against a published example, and on numbers whose distribution is known."""

from __future__ import annotations

import pytest
import torch

from qlora_studio.engine.normality import MOST, shapiro_wilk, statistic


def drawn(rows: int, size: int) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(5))


def test_the_example_that_the_test_was_published_with():
    """Shapiro and Wilk, Biometrika 52 (1965): the weights of eleven men, W = 0.79."""
    pounds = torch.tensor([[148.0, 154, 158, 160, 161, 162, 166, 170, 182, 195, 236]])
    assert float(statistic(pounds)) == pytest.approx(0.79, abs=0.005)


@pytest.mark.parametrize("size", [30, 576, 4096])
def test_of_normal_numbers_about_one_sample_in_twenty_is_refused(size):
    _, p = shapiro_wilk(drawn(2_000, size))
    assert 0.03 < float((p < 0.05).double().mean()) < 0.07


def test_numbers_at_even_steps_and_numbers_with_long_tails_are_refused():
    even = torch.rand(200, 576, generator=torch.Generator().manual_seed(1))
    long_tails = drawn(200, 576) ** 3
    for samples in (even, long_tails):
        _, p = shapiro_wilk(samples)
        assert float(p.max()) < 0.05


def test_neither_place_nor_scale_matters():
    samples = drawn(5, 100)
    torch.testing.assert_close(shapiro_wilk(samples)[0], shapiro_wilk(samples.double() * 7 - 3)[0])


def test_equal_numbers_are_no_reason_to_refuse():
    w, p = shapiro_wilk(torch.full((1, 20), 2.0))
    assert (float(w), float(p)) == (1.0, 1.0)


def test_of_many_numbers_some_are_taken_and_of_few_nothing_is_said():
    assert shapiro_wilk(drawn(2, MOST + 1_000))[0].shape == (2,)
    with pytest.raises(ValueError, match="begins at 12"):
        shapiro_wilk(drawn(1, 11))
