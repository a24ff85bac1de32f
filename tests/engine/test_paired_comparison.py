"""Whether a difference between two models on the same questions is more than luck."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from qlora_studio.engine.paired_comparison import difference_interval, mcnemar_p


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (10, 2), (2, 10), (60, 41)])
def test_the_p_value_is_the_two_sided_binomial_one(gained: int, lost: int) -> None:
    changed = gained + lost
    tail = sum(comb(changed, k) for k in range(min(gained, lost) + 1))
    assert mcnemar_p(gained, lost) == pytest.approx(min(1.0, 2 * tail / 2**changed))


def test_the_p_value_of_a_known_table() -> None:
    assert mcnemar_p(10, 2) == pytest.approx(0.0385742, rel=1e-5)  # 2 * 79 / 4096


def test_the_interval_is_that_of_drawing_the_questions_again() -> None:
    gained, lost, questions = 83, 34, 400
    added = np.array([1] * gained + [-1] * lost + [0] * (questions - gained - lost))
    random = np.random.default_rng(7)
    drawn = [added[random.integers(0, questions, questions)].mean() for _ in range(10_000)]
    assert difference_interval(gained, lost, questions) == pytest.approx(
        tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.006
    )


def test_without_a_change_there_is_no_doubt() -> None:
    assert difference_interval(0, 0, 50) == (0.0, 0.0)


def test_the_same_answers_give_the_same_interval() -> None:
    assert difference_interval(9, 4, 60) == difference_interval(9, 4, 60)


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_the_interval_holds_the_true_difference_about_19_times_in_20(share: float) -> None:
    random = np.random.default_rng(3)
    tables = random.multinomial(500, [share, share / 2, 1 - 1.5 * share], size=300)
    intervals = [difference_interval(int(gained), int(lost), 500) for gained, lost, _ in tables]
    held = np.mean([low <= share / 2 <= high for low, high in intervals])
    assert 0.9 <= held <= 0.99


def test_many_thousand_changes_are_counted_at_once() -> None:
    assert mcnemar_p(50_000, 50_000) == 1.0
    assert mcnemar_p(51_000, 49_000) < 1e-9
