from __future__ import annotations

import pytest
import torch

from qlora_studio.engine.token_choice import TokenChoice
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Sampling

CPU = torch.device("cpu")
LOGITS = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3]))


def drawn(sampling: Sampling, times: int = 300) -> set[int]:
    choice = TokenChoice(sampling, CPU)
    return {choice.choose(LOGITS, []) for _ in range(times)}


def test_greedy_takes_the_likeliest() -> None:
    assert drawn(Sampling(greedy=True)) == drawn(Sampling(temperature=0.0)) == {1}


def test_without_limits_everything_may_be_drawn() -> None:
    assert drawn(Sampling(temperature=1.0, top_p=1.0, top_k=0)) == {0, 1, 2, 3}


def test_top_k_leaves_the_k_likeliest() -> None:
    assert drawn(Sampling(temperature=5.0, top_p=1.0, top_k=2)) == {1, 3}


def test_top_p_leaves_the_fewest_that_hold_so_much() -> None:
    assert drawn(Sampling(temperature=1.0, top_p=0.7, top_k=0)) == {1, 3}
    assert drawn(Sampling(temperature=1.0, top_p=0.0, top_k=0)) == {1}


def test_min_p_leaves_what_is_likely_enough_beside_the_likeliest() -> None:
    assert drawn(Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.25)) == {1, 2, 3}
    assert drawn(Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.5)) == {1, 3}
    assert drawn(Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=1.0)) == {1}


def test_what_is_drawn_is_as_frequent_as_it_is_likely() -> None:
    choice = TokenChoice(Sampling(temperature=1.0, top_p=1.0, top_k=0), CPU)
    counts = torch.bincount(torch.tensor([choice.choose(LOGITS, []) for _ in range(4000)]))
    assert torch.allclose(counts / 4000, LOGITS.exp(), atol=0.03)


def test_the_same_seed_draws_the_same_whatever_was_drawn_elsewhere() -> None:
    first = TokenChoice(Sampling(temperature=1.0, seed=7), CPU)
    one = [first.choose(LOGITS, []) for _ in range(50)]
    torch.rand(100)
    second = TokenChoice(Sampling(temperature=1.0, seed=7), CPU)
    assert [second.choose(LOGITS, []) for _ in range(50)] == one
    other = TokenChoice(Sampling(temperature=1.0, seed=8), CPU)
    assert [other.choose(LOGITS, []) for _ in range(50)] != one


def test_a_penalty_makes_what_was_said_less_likely() -> None:
    greedy = Sampling(greedy=True, repeat_penalty=2.0)
    assert TokenChoice(greedy, CPU).choose(LOGITS, [1]) == 3
    assert TokenChoice(greedy, CPU).choose(LOGITS.exp(), [1]) == 3


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_answers_that_are_no_numbers_are_told(greedy: bool, number: float) -> None:
    broken = LOGITS.clone()
    broken[2] = number
    with pytest.raises(StudioError, match="no number"):
        TokenChoice(Sampling(greedy=greedy), CPU).choose(broken, [])


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"top_p": 2.0}, {"min_p": 1.5}, {"top_k": -3}, {"max_tokens": 0}, {"seed": -1}],
)
def test_a_setting_that_can_not_be_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(StudioError, match=next(iter(wrong))):
        TokenChoice(Sampling(**wrong), CPU)  # type: ignore[arg-type]
