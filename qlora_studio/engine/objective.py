"""What an update makes smaller: the loss of learned tokens, or that of answers which are preferred."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qlora_studio.data.packing import Batch
from qlora_studio.engine.embedding_noise import EmbeddingNoise
from qlora_studio.engine.learned_loss import learned_loss
from qlora_studio.engine.packed_batch import PackedBatch


@dataclass(frozen=True)
class Rewards:
    """How far the adapter prefers the better answers, summed over answers. Tensors, so that no card is waited
    for.

    better, worse: float32 []: rewards, of `better_count` and `worse_count` answers
    right:         float32 []: pairs whose better answer has the higher reward, of `pairs`
    """

    better: Tensor
    worse: Tensor
    right: Tensor
    better_count: Tensor
    worse_count: Tensor
    pairs: int

    def plus(self, other: Rewards | None) -> Rewards:
        """Of the answers of both."""
        if other is None:
            return self
        return Rewards(
            self.better + other.better,
            self.worse + other.worse,
            self.right + other.right,
            self.better_count + other.better_count,
            self.worse_count + other.worse_count,
            self.pairs + other.pairs,
        )


class Objective(Protocol):
    """The loss of a micro-batch, as a sum over what `count` counts."""

    def count(self, batches: Sequence[Batch]) -> int:
        """What the summed loss is divided by."""

    def begin(
        self, model: PreTrainedModel, batches: Sequence[PackedBatch], *, evaluating: bool = False
    ) -> None:
        """What must be known of all micro-batches before the first gradient."""

    def begin_evaluation(self, model: PreTrainedModel, batches: Iterable[PackedBatch]) -> Iterator[None]:
        """What must be known of all rows held out before the first is measured, batch after batch."""

    def loss(self, model: PreTrainedModel, batch: PackedBatch, index: int) -> tuple[Tensor, Rewards | None]:
        """float32 []: summed. index: of the micro-batch, among those of `begin`."""


class LearnedTokens:
    """Chats and texts: nats of each learned token."""

    def __init__(self, noise: EmbeddingNoise | None = None, logits_at_once: int | None = None) -> None:
        """Both while gradients are made. noise: on the embeddings; logits_at_once: None: as usual"""
        self._noise, self._logits_at_once = noise, logits_at_once

    def count(self, batches: Sequence[Batch]) -> int:
        """Learned tokens."""
        return sum(batch.learned_tokens for batch in batches)

    def begin(
        self, model: PreTrainedModel, batches: Sequence[PackedBatch], *, evaluating: bool = False
    ) -> None:
        """Nothing."""

    def begin_evaluation(self, model: PreTrainedModel, batches: Iterable[PackedBatch]) -> Iterator[None]:
        """Nothing."""
        yield from ()

    def loss(self, model: PreTrainedModel, batch: PackedBatch, index: int) -> tuple[Tensor, Rewards | None]:
        """Nats summed over the learned tokens, each times its weight."""
        noise = self._noise if torch.is_grad_enabled() else None
        return learned_loss(model, batch, noise, self._logits_at_once), None
