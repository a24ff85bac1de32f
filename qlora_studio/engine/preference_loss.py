"""Losses of preferences: DPO and KTO against the base model, ORPO without one.

The base is the model in training with its adapter off: there is no second copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from qlora_studio.config.run_config import PreferenceConfig
from qlora_studio.data.packing import Batch
from qlora_studio.engine.learned_loss import learned_losses
from qlora_studio.engine.objective import Rewards
from qlora_studio.engine.packed_batch import PackedBatch

SUREST = 1e-6  # of a log-probability below 0: above it log(1 - p) and its gradient are no numbers
UseAdapter = Callable[[bool], None]  # on, or off


def dpo_losses(better: Tensor, worse: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """float32 [pairs].

    better, worse: float32 [pairs]: log-probability of each answer over the base's, nats
    label_smoothing: the share of pairs that are the wrong way round
    source:        arXiv:2305.18290, equation 7
    """
    margin = beta * (better - worse)
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def orpo_losses(better: Tensor, worse: Tensor, beta: float) -> Tensor:
    """float32 [pairs]: the better answer's own loss, and beta times that of the ratio of their odds.

    better, worse: float32 [pairs]: mean log-probability of a token of each answer, below 0, nats
    source:        arXiv:2403.07691, equations 6 and 7
    """
    log_odds = (better - worse) - (_log_of_not(better) - _log_of_not(worse))
    return -better - beta * logsigmoid(log_odds)


def kto_losses(ratios: Tensor, is_good: Tensor, baseline: Tensor, beta: float) -> Tensor:
    """float32 [answers].

    ratios:   float32 [answers]: log-probability of each over the base's, nats
    is_good:  bool [answers]: as it was rated
    baseline: float32 []: the mean ratio of foreign answers, at least 0; gets no gradient
    source:   arXiv:2402.01306, equation 8, good and bad answers weighing the same
    """
    sign = torch.where(is_good, 1.0, -1.0)
    return 1 - torch.sigmoid(beta * sign * (ratios - baseline))


def _log_of_not(log_probability: Tensor) -> Tensor:
    """log(1 - p), where p is nearly 1 too; of what is rounded to 1, or above, as of 1 - 1e-6."""
    return torch.log(-torch.expm1(log_probability.clamp(max=-SUREST)))


class PreferredAnswers:
    """The loss of pairs (dpo, orpo), or of rated answers (kto), one for each row of a batch."""

    def __init__(
        self,
        method: str,
        settings: PreferenceConfig,
        use_adapter: UseAdapter,
        logits_at_once: int | None = None,
    ) -> None:
        """logits_at_once: while gradients are made; None: as usual"""
        self._method = method
        self._settings = settings
        self._use_adapter = use_adapter
        self._logits_at_once = logits_at_once
        self._baseline: Tensor | None = None  # of KTO
        self._held_out_baseline: Tensor | None = None
        self._by_base: list[Tensor] = []  # of each micro-batch

    def count(self, batches: Sequence[Batch]) -> int:
        """Pairs, or rated answers."""
        return sum(len(batch.rows) for batch in batches)

    def begin(
        self, model: PreTrainedModel, batches: Sequence[PackedBatch], *, evaluating: bool = False
    ) -> None:
        """What the base makes of all answers; for KTO also what they are measured against."""
        self._by_base, self._baseline = [], self._held_out_baseline if evaluating else None
        if self._method == "orpo":
            return
        with torch.no_grad():
            self._by_base = self._of_base(model, batches)
            if self._method == "kto" and self._baseline is None:
                self._baseline = _baseline(self._foreign(model, batches, self._by_base))

    def begin_evaluation(self, model: PreTrainedModel, batches: Iterable[PackedBatch]) -> Iterator[None]:
        """For KTO: what all rows held out are measured against, however they are spread over batches."""
        self._held_out_baseline = None
        if self._method != "kto":
            return
        found: list[Tensor] = []
        for batch in batches:
            with torch.no_grad():
                found += self._foreign(model, [batch], self._of_base(model, [batch]))
            yield
        self._held_out_baseline = _baseline(found)

    def loss(self, model: PreTrainedModel, batch: PackedBatch, index: int) -> tuple[Tensor, Rewards]:
        """float32 []: summed over the rows of the batch; and how much which answers are preferred."""
        found = answer_log_probabilities(model, batch, self._logits_at_once)
        if self._method == "orpo":
            return self._orpo(found, batch)
        ratios = found - self._by_base[index]
        if self._method == "kto":
            return self._kto(ratios[0::2], batch)
        better, worse = ratios[0::2], ratios[1::2]
        settings = self._settings
        losses = dpo_losses(better, worse, settings.beta, settings.label_smoothing)
        return losses.sum(), _of_pairs(settings.beta * better, settings.beta * worse)

    def _orpo(self, found: Tensor, batch: PackedBatch) -> tuple[Tensor, Rewards]:
        means = found / answer_tokens(batch)
        better, worse = means[0::2], means[1::2]
        beta = self._settings.beta
        return orpo_losses(better, worse, beta).sum(), _of_pairs(beta * better, beta * worse)

    def _kto(self, ratios: Tensor, batch: PackedBatch) -> tuple[Tensor, Rewards]:
        assert self._baseline is not None
        is_good = answers_rated_good(batch)
        losses = kto_losses(ratios, is_good, self._baseline, self._settings.beta)
        rewards = (self._settings.beta * ratios).detach()
        none = torch.zeros((), device=rewards.device)
        return losses.sum(), Rewards(
            better=rewards[is_good].sum(),
            worse=rewards[~is_good].sum(),
            right=none,
            better_count=is_good.sum().float(),
            worse_count=(~is_good).sum().float(),
            pairs=0,
        )

    def _of_base(self, model: PreTrainedModel, batches: Sequence[PackedBatch]) -> list[Tensor]:
        with self._base():
            return [answer_log_probabilities(model, batch) for batch in batches]

    def _foreign(
        self, model: PreTrainedModel, batches: Sequence[PackedBatch], by_base: Sequence[Tensor]
    ) -> list[Tensor]:
        """Of each batch the ratios of its foreign answers, which are nobody's to be learned."""
        found = []
        for batch, base in zip(batches, by_base, strict=True):
            ratios = (answer_log_probabilities(model, batch) - base)[1::2]
            found.append(ratios[answer_tokens(batch)[1::2] > 0])
        return found

    @contextmanager
    def _base(self) -> Iterator[None]:
        self._use_adapter(False)
        try:
            yield
        finally:
            self._use_adapter(True)


def _baseline(ratios: Sequence[Tensor]) -> Tensor:
    """float32 []: their mean, at least 0; 0 where there are none."""
    every = torch.cat(list(ratios))
    return (every.sum() / max(len(every), 1)).clamp(min=0)


def answer_log_probabilities(
    model: PreTrainedModel, batch: PackedBatch, logits_at_once: int | None = None
) -> Tensor:
    """float32 [2 * rows]: nats of the counted tokens of each chat, summed; 0 for one that isn't there."""
    return -(_members(batch) @ (learned_losses(model, batch, logits_at_once) * batch.weights.abs()))


def answer_tokens(batch: PackedBatch) -> Tensor:
    """float32 [2 * rows]: counted tokens of each chat, each by its weight."""
    return _members(batch) @ batch.weights.abs()


def answers_rated_good(batch: PackedBatch) -> Tensor:
    """bool [rows]: of the first chat of each."""
    return (_members(batch) @ batch.weights)[0::2] > 0


def _members(batch: PackedBatch) -> Tensor:
    """float32 [2 * rows, n]: 1 where a learned position stands in a chat.

    A product with it adds always in the same order; adding by index doesn't, on a card.
    """
    assert batch.chats is not None, "put on the device without them"
    chats = torch.arange(2 * batch.rows, device=batch.chats.device)
    return (chats[:, None] == batch.chats).float()


def _of_pairs(better: Tensor, worse: Tensor) -> Rewards:
    better, worse = better.detach(), worse.detach()
    count = torch.tensor(float(len(better)), device=better.device)
    right = (better > worse).float() + 0.5 * (
        better == worse
    ).float()  # before the first update all are equal
    return Rewards(better.sum(), worse.sum(), right.sum(), count, count, len(better))
