"""Preferences: the losses against TRL's on the same rows, runs that learn, resume to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.engine.preference_loss import (
    dpo_losses,
    kto_losses,
    orpo_losses,
)
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import EvaluationFinished, ModelLoaded, RewardsMeasured, StepFinished
from qlora_studio.runs.metrics import read_metrics
from tests.engine.tiny import VOCAB, events_of, losses, make_model, make_run, of_kind

QUESTION, ANSWER = 5, 7  # tokens


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def pairs(count: int, seed: int = 0) -> list[TokenizedRow]:
    """The better answer ends with low tokens, the worse one with high ones."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        question = random.integers(3, VOCAB, QUESTION)
        better = random.integers(3, VOCAB // 2, int(random.integers(2, ANSWER)))
        worse = random.integers(VOCAB // 2, VOCAB, int(random.integers(2, ANSWER)))
        rows.append(two_chats(number, [*question, *better], [*question, *worse]))
    return rows


def two_chats(number: int, first: list[int], second: list[int], rated: float = 1.0) -> TokenizedRow:
    weights = [rated * (k >= QUESTION) for k in range(len(first))] + [
        1.0 * (k >= QUESTION) for k in range(len(second))
    ]
    ids = np.array([*first, *second], np.int32)
    return TokenizedRow(number, ids, np.array(weights, np.float32), len(first))


def rated(count: int, seed: int = 0) -> list[TokenizedRow]:
    """KTO: good answers of low tokens, bad ones of high tokens, beside each a foreign answer."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        good = number % 2 == 0
        low, high = (3, VOCAB // 2) if good else (VOCAB // 2, VOCAB)
        question = random.integers(3, VOCAB, QUESTION)
        answer, foreign = random.integers(low, high, 4), random.integers(3, VOCAB, 4)
        rows.append(two_chats(number, [*question, *answer], [*question, *foreign], 1.0 if good else -1.0))
    return rows


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
def test_a_run_learns_to_prefer_and_says_so(tmp_path: Path, model: Path, method: str) -> None:
    rows, held_out = (rated, rated) if method == "kto" else (pairs, pairs)
    run = make_run(
        tmp_path,
        model,
        rows(24),
        held_out(6, seed=1),
        training__method=method,
        training__steps=12,
        training__learning_rate=3e-2,
        preference__beta=0.5,
        checkpoints__evaluate_every_steps=6,
    )

    events = events_of(run)

    told = of_kind(events, RewardsMeasured)
    assert [event.step for event in told if not event.held_out] == list(range(1, 13))
    assert [event.step for event in told if event.held_out] == [0, 6, 12]
    evaluations = of_kind(events, EvaluationFinished)
    assert evaluations[-1].loss is not None and evaluations[0].loss is not None
    assert evaluations[-1].loss < evaluations[0].loss
    assert evaluations[-1].perplexity is None  # of a loss that isn't one of tokens
    first, between, last = [event for event in told if event.held_out]
    assert first.margin is not None and last.margin is not None
    assert last.margin > max(first.margin, 0)
    if method == "kto":
        assert last.accuracy is None
    else:
        assert last.accuracy is not None and last.accuracy > 0.8
    metrics = read_metrics(run / "metrics.jsonl")
    assert [line.step for line in metrics.rewards] == list(range(1, 13))
    assert [line.margin for line in metrics.held_out_rewards] == [first.margin, between.margin, last.margin]


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
def test_before_the_first_update_nothing_is_preferred(tmp_path: Path, model: Path, method: str) -> None:
    rows = rated(8) if method == "kto" else pairs(8)
    run = make_run(tmp_path, model, rows, rows, training__method=method, training__steps=1)

    events = events_of(run)

    first = of_kind(events, EvaluationFinished)[0].loss
    start = of_kind(events, RewardsMeasured)[0]
    if method == "dpo":
        assert first == pytest.approx(np.log(2), abs=1e-6)
    if method == "kto":
        assert first == pytest.approx(0.5, abs=1e-6)
    if method != "orpo":  # the adapter changes nothing yet, and is measured against the base
        assert (start.better, start.worse, start.margin) == (0, 0, 0)
        assert start.accuracy == (0.5 if method == "dpo" else None)


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
def test_paused_and_resumed_it_gives_the_same_numbers(tmp_path: Path, model: Path, method: str) -> None:  # R3
    rows = rated(20) if method == "kto" else pairs(20)
    options: dict[str, Any] = {"training__method": method, "training__steps": 6, "lora__dropout": 0.1}
    unbroken = losses(events_of(make_run(tmp_path, model, rows, rows[:4], **options)))
    run = make_run(tmp_path, model, rows, rows[:4], **options)

    before = losses(events_of(run, Wish.PAUSE, after_step=3))
    after = losses(events_of(run))

    assert len(before) == 3
    assert before + after == unbroken


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_packed_pairs_and_pairs_of_their_own_rows_are_the_same_update(
    tmp_path: Path, model: Path, method: str
) -> None:
    rows = pairs(8)
    options: dict[str, Any] = {
        "training__method": method,
        "training__steps": 3,
        "training__batch_size": 8,
        "training__gradient_accumulation": 1,
        "data__seq_len": 128,
    }
    packed = losses(events_of(make_run(tmp_path, model, rows, rows, data__packing=True, **options)))
    alone = losses(events_of(make_run(tmp_path, model, rows, rows, data__packing=False, **options)))

    assert packed == pytest.approx(alone, rel=1e-5)


def test_noise_that_is_not_added_is_told_of(tmp_path: Path, model: Path) -> None:
    run = make_run(
        tmp_path,
        model,
        pairs(4),
        pairs(2),
        training__method="dpo",
        training__steps=1,
        training__neftune_alpha=5,
    )

    events = events_of(run)

    assert any("NEFTune" in note for note in of_kind(events, ModelLoaded)[0].notes)
    assert of_kind(events, StepFinished)[0].loss == pytest.approx(np.log(2), abs=1e-6)


def test_smoothed_labels_are_the_two_ways_round_weighed() -> None:
    better, worse = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    right, wrong = dpo_losses(better, worse, 0.3), dpo_losses(worse, better, 0.3)
    torch.testing.assert_close(dpo_losses(better, worse, 0.3, 0.2), 0.8 * right + 0.2 * wrong)


def test_a_better_ratio_of_a_good_answer_costs_less_and_of_a_bad_one_more() -> None:
    good, bad = torch.tensor([True]), torch.tensor([False])
    low, high, baseline = torch.tensor([0.1]), torch.tensor([2.0]), torch.tensor(0.5)
    assert kto_losses(high, good, baseline, 0.1) < kto_losses(low, good, baseline, 0.1)
    assert kto_losses(high, bad, baseline, 0.1) > kto_losses(low, bad, baseline, 0.1)


@pytest.mark.parametrize("sure", [0.0, 1e-8])
def test_an_answer_that_is_certain_stays_a_number(sure: float) -> None:
    better, worse = torch.tensor([sure], requires_grad=True), torch.tensor([sure], requires_grad=True)
    orpo_losses(better, torch.tensor([-2.0]), 0.1).sum().backward()
    orpo_losses(torch.tensor([-2.0]), worse, 0.1).sum().backward()
    for weight in (better, worse):
        assert weight.grad is not None and bool(torch.isfinite(weight.grad).all())
    assert bool(torch.isfinite(orpo_losses(better, worse, 0.1)).all())


def test_the_loss_of_rated_answers_held_out_is_the_same_however_they_are_spread(
    tmp_path: Path, model: Path
) -> None:
    """After some updates: before them nothing is measured against."""
    found = []
    for batch_size in (1, 8):
        run = make_run(
            tmp_path,
            model,
            rated(8),
            rated(7, seed=1),
            training__method="kto",
            training__steps=2,
            training__batch_size=batch_size,
            training__gradient_accumulation=8 // batch_size,
            data__seq_len=64,
            data__packing=False,
            preference__beta=0.5,
        )
        found.append([event.loss for event in of_kind(events_of(run), EvaluationFinished)])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
