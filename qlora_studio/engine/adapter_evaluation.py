"""A run's adapter on the rows of another file: its loss, and how many answers it gives word for word."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from qlora_studio.config.run_config import RunConfig
from qlora_studio.data.packing import Batch, collate, evaluation_batches
from qlora_studio.data.prepared import PreparedRows, open_prepared
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.compute_dtype import resolve_compute_dtype
from qlora_studio.engine.evaluation import EvaluationResult
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.learned_loss import Head, learned_hidden_states
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.packed_batch import PackedBatch, on_device
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Evaluate
from qlora_studio.protocol.events import EvaluationProgress, EvaluationReport, LoadingProgress
from qlora_studio.runs.folder import Run, open_run

_CHUNK_LOGITS = 2**23  # that exist at one time


def evaluate_adapter(
    command: Evaluate, holder: ModelHolder, stopped: Callable[[], bool]
) -> Iterator[LoadingProgress | EvaluationProgress | EvaluationReport]:
    """Raises: StudioError."""
    run = open_run(Path(command.run))
    folder = _adapter_folder(run, command.adapter)
    rows = open_prepared(Path(command.prepared))
    config = run.record.config
    dtype = resolve_compute_dtype(config.model.compute_dtype, holder.device)
    storage = Storage(config.model.quantization, config.model.double_quant, dtype)
    adapted = yield from holder.hold(config.model.path, storage)
    adapted.use(adapted.add_from(folder))
    result, exact = yield from _measure(adapted, rows, config, run.state.step, stopped)
    comparable = config.training.method == "sft" and config.data.train_on != "everything"
    yield EvaluationReport(
        id=command.id,
        loss=result.loss if result.loss is not None and math.isfinite(result.loss) else None,
        perplexity=result.perplexity,
        accuracy=exact / result.rows if comparable and result.rows else None,
        rows=result.rows,
        learned_tokens=result.learned_tokens,
    )


def _adapter_folder(run: Run, other: str | None) -> Path:
    folder = Path(other) if other else run.adapter
    if folder is None:
        raise StudioError(
            f"{run.folder} has no adapter yet.", hint="It is written when the run finishes or is stopped."
        )
    return folder


def _measure(
    adapted: AdaptedModel, rows: PreparedRows, config: RunConfig, step: int, stopped: Callable[[], bool]
) -> Generator[EvaluationProgress, None, tuple[EvaluationResult, int]]:
    """The loss, and the number of rows that were predicted without a mistake."""
    model, device = adapted.causal_lm, adapted.base.device.torch_device
    model.eval()
    total = len(rows.validation)
    nats, learned, done, exact = 0.0, 0, 0, 0
    for micro_batch in evaluation_batches(
        rows.validation.lengths,
        seq_len=config.data.seq_len,
        packing=config.data.packing,
        batch_size=config.training.batch_size,
    ):
        if stopped():
            raise StudioError("The evaluation was stopped.")
        batch = collate(micro_batch, rows.validation, pad_id=rows.info.pad_id)
        seen = _look_at(model, on_device(batch, device, keep_padding=False))
        nats += seen.nats
        exact += _rows_without_mistake(batch, seen.right)
        learned += batch.learned_tokens
        done += len(batch.rows)
        yield EvaluationProgress(step=step, done=done, total=total)
    return EvaluationResult(nats / learned if learned else None, done, learned, seconds=0.0), exact


@dataclass(frozen=True, eq=False)
class _Seen:
    """nats: summed over the learned tokens, each times its weight. right: whether it was the likeliest."""

    nats: float
    right: NDArray[np.bool_]


def _look_at(model: PreTrainedModel, batch: PackedBatch) -> _Seen:
    with torch.no_grad():
        head = Head.of(model)
        hidden = learned_hidden_states(model, batch).to(head.weight.dtype)
        chunk = max(1, _CHUNK_LOGITS // head.weight.shape[0])
        nats, right = 0.0, list[Tensor]()
        for start in range(0, len(batch.targets), chunk):
            part = slice(start, start + chunk)
            logits, targets = head.logits(hidden[part]), batch.targets[part]
            nats += float((cross_entropy(logits, targets, reduction="none") * batch.weights[part]).sum())
            right.append(logits.argmax(-1) == targets)
    return _Seen(nats, torch.cat(right).cpu().numpy())


def _rows_without_mistake(batch: Batch, right: NDArray[np.bool_]) -> int:
    """Greedy decoding gives back an answer exactly where each of its tokens is the likeliest."""
    height, width = batch.segment_ids.shape
    owners = np.arange(height)[:, None] * width + batch.segment_ids  # a number of its own for each row
    of_learned = owners.reshape(-1)[batch.learned]
    return len(set(of_learned.tolist()) - set(of_learned[~right].tolist()))
