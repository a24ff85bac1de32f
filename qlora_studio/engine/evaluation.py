"""The loss on rows that aren't learned from: packed as they are in training, always in the same order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from qlora_studio.data.packing import Batch, MicroBatch
from qlora_studio.engine.objective import LearnedTokens, Objective, Rewards
from qlora_studio.engine.packed_batch import PackedBatch


@dataclass(frozen=True)
class EvaluationResult:
    """loss: nats per learned token, or of each pair or rated answer; None where there was none, NaN or
    infinite where it wasn't finite. rewards: of preferences."""

    loss: float | None
    rows: int
    learned_tokens: int
    seconds: float
    rewards: Rewards | None = None

    @property
    def perplexity(self) -> float | None:
        """exp(loss), where that is a number and the loss is one of tokens."""
        if self.loss is None or self.rewards or not math.isfinite(self.loss) or self.loss > 700:
            return None
        return math.exp(self.loss)


@dataclass(frozen=True)
class RowsDone:
    """`done` of `total` rows, or of what `words` say."""

    done: int
    total: int
    words: str = ""


def evaluate(
    model: PreTrainedModel,
    batches: list[MicroBatch],
    collate: Callable[[MicroBatch], Batch],
    put: Callable[[Batch], PackedBatch],
    objective: Objective | None = None,
) -> Generator[RowsDone, None, EvaluationResult]:
    """Says after each micro-batch how far it is; whoever listens may stop there.

    objective: without one the loss of learned tokens
    """
    objective = objective or LearnedTokens()
    start = time.monotonic()
    total_rows = sum(len(pack) for batch in batches for pack in batch)
    total, count, learned, done = 0.0, 0, 0, 0
    rewards: Rewards | None = None
    model.eval()
    for _ in objective.begin_evaluation(model, (put(collate(micro_batch)) for micro_batch in batches)):
        yield RowsDone(0, total_rows)
    for micro_batch in batches:
        batch = collate(micro_batch)
        with torch.no_grad():
            placed = put(batch)
            objective.begin(model, [placed], evaluating=True)
            loss, found = objective.loss(model, placed, 0)
            total += float(loss)
        rewards = found.plus(rewards) if found is not None else None
        count += objective.count([batch])
        learned += batch.learned_tokens
        done += len(batch.rows)
        yield RowsDone(done, total_rows)
    mean = total / count if count else None
    return EvaluationResult(mean, total_rows, learned, time.monotonic() - start, rewards)
