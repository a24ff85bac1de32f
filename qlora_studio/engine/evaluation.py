"""The loss on rows that aren't learned from: packed as they are in training, always in the same order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from qlora_studio.data.packing import Batch, MicroBatch
from qlora_studio.engine.learned_loss import learned_loss
from qlora_studio.engine.packed_batch import PackedBatch


@dataclass(frozen=True)
class EvaluationResult:
    """loss: nats per learned token; None where there was none, NaN or infinite where it wasn't finite."""

    loss: float | None
    rows: int
    learned_tokens: int
    seconds: float

    @property
    def perplexity(self) -> float | None:
        """exp(loss), where that is a number."""
        if self.loss is None or not math.isfinite(self.loss) or self.loss > 700:
            return None
        return math.exp(self.loss)


@dataclass(frozen=True)
class RowsDone:
    """`done` of `total` rows."""

    done: int
    total: int


def evaluate(
    model: PreTrainedModel,
    batches: list[MicroBatch],
    collate: Callable[[MicroBatch], Batch],
    put: Callable[[Batch], PackedBatch],
) -> Generator[RowsDone, None, EvaluationResult]:
    """Says after each micro-batch how far it is; whoever listens may stop there."""
    start = time.monotonic()
    total_rows = sum(len(pack) for batch in batches for pack in batch)
    nats, learned, done = 0.0, 0, 0
    model.eval()
    for micro_batch in batches:
        batch = collate(micro_batch)
        with torch.no_grad():
            nats += float(learned_loss(model, put(batch)))
        learned += batch.learned_tokens
        done += len(batch.rows)
        yield RowsDone(done, total_rows)
    loss = nats / learned if learned else None
    return EvaluationResult(loss, total_rows, learned, time.monotonic() - start)
