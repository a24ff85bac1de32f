"""A cache that stays where it is gives the logits of one that grows, for every family that can have one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qlora_studio.engine import continuation
from qlora_studio.engine.continuation import Continuation, KeptSteps
from qlora_studio.engine.fixed_cache import FixedCache, takes_fixed_cache
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from tests.engine.tiny import CPU, FAMILIES, loaded, make_model

PROMPT = [3, 14, 15, 9, 2, 6]
NEXT = [5, 3, 5, 8, 9, 7, 9]
PLAIN = Storage("none", False, torch.float32)
BENT = ("gemma2",)  # its scores are bent


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card, but no step is recorded."""
    monkeypatch.setattr(continuation, "_repeats_steps", takes_fixed_cache)
    monkeypatch.setattr(continuation, "_MORE_TOKENS", 4)  # so that it must grow


def logits_of(text: Continuation) -> Tensor:
    """[1 + len(NEXT), vocabulary]: after the prompt, and after each token of the rest."""
    return torch.stack([text.extend(ids).clone() for ids in (PROMPT, *([token] for token in NEXT))])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in BENT])
def test_a_fixed_cache_gives_the_logits_of_a_growing_one(
    request: pytest.FixtureRequest, tmp_path: Path, family: str
) -> None:
    model = loaded(load_base(str(make_model(tmp_path / "model", family)), PLAIN, CPU)).causal_lm
    growing = logits_of(Continuation(model))
    request.getfixturevalue("fixed")

    torch.testing.assert_close(logits_of(Continuation(model)), growing, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", BENT)
def test_bent_scores_take_the_growing_cache(tmp_path: Path, family: str) -> None:
    assert not takes_fixed_cache(
        loaded(load_base(str(make_model(tmp_path / "model", family)), PLAIN, CPU)).causal_lm
    )


def test_a_text_goes_on_with_several_tokens_after_single_ones(fixed: None, tmp_path: Path) -> None:
    model = loaded(load_base(str(make_model(tmp_path / "model")), PLAIN, CPU)).causal_lm
    pieces, whole = Continuation(model), Continuation(model)
    for ids in (PROMPT, NEXT[:1], NEXT[1:2], NEXT[2:]):
        last = pieces.extend(ids)

    torch.testing.assert_close(last, whole.extend(PROMPT + NEXT), rtol=1e-4, atol=1e-4)
    assert pieces.tokens == len(PROMPT + NEXT)


def test_a_text_after_another_takes_over_its_memory_and_steps(fixed: None, tmp_path: Path) -> None:
    model = loaded(load_base(str(make_model(tmp_path / "model")), PLAIN, CPU)).causal_lm
    kept = KeptSteps()
    first, second = (Continuation(model, kept) for _ in range(2))
    wanted = logits_of(first)
    found = logits_of(second)  # what is longer than the cache had room for has moved it meanwhile

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert second._cache is first._cache
    assert second._step is first._step


def test_a_longer_text_gets_a_cache_of_its_own(fixed: None, tmp_path: Path) -> None:
    model = loaded(load_base(str(make_model(tmp_path / "model")), PLAIN, CPU)).causal_lm
    kept = KeptSteps()
    short, long = (Continuation(model, kept) for _ in range(2))
    short.extend(PROMPT)
    wanted = Continuation(model).extend(PROMPT * 5)

    torch.testing.assert_close(long.extend(PROMPT * 5), wanted, rtol=0, atol=0)
    assert isinstance(long._cache, FixedCache)
    assert long._cache is not short._cache


def test_a_token_in_the_making_extends_a_text_as_a_read_one(fixed: None, tmp_path: Path) -> None:
    model = loaded(load_base(str(make_model(tmp_path / "model")), PLAIN, CPU)).causal_lm
    read, ahead = Continuation(model), Continuation(model)
    assert not ahead.runs_ahead
    read.extend(PROMPT)
    ahead.extend(PROMPT)

    assert ahead.runs_ahead
    torch.testing.assert_close(ahead.extend_by(torch.tensor(5)), read.extend([5]), rtol=0, atol=0)
    assert ahead.tokens == read.tokens
