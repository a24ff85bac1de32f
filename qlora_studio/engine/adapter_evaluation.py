"""A run's adapter on the rows of another file: its loss, how many answers are right, and how many before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from qlora_studio.config.run_config import SHAPE_PREFIX, RunConfig
from qlora_studio.data.packing import Batch, collate, evaluation_batches
from qlora_studio.data.prepared import PreparedRows, open_prepared
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.evaluation import EvaluationResult
from qlora_studio.engine.learned_loss import Head, learned_hidden_states
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.multiple_choice import ChoiceQuestion, choice_questions, likeliest_letters
from qlora_studio.engine.number_answers import TokensWritten, number_questions, right_numbers
from qlora_studio.engine.packed_batch import PackedBatch, on_device
from qlora_studio.engine.paired_comparison import difference_interval, mcnemar_p
from qlora_studio.engine.trained_model import load_trained, newest_adapter_folder
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Evaluate
from qlora_studio.protocol.events import (
    BaseComparison,
    ChangedRow,
    EvaluationProgress,
    EvaluationReport,
    LoadingProgress,
)
from qlora_studio.runs.folder import open_run

MOST_CHANGED = 1_000  # rows that a report names: a line of the protocol ends at 1 MB
_CHUNK_LOGITS = 2**23  # that exist at one time
_PROGRESS_S = 0.2


def evaluate_adapter(
    command: Evaluate, holder: ModelHolder, stopped: Callable[[], bool]
) -> Iterator[LoadingProgress | EvaluationProgress | EvaluationReport]:
    """Raises: StudioError."""
    run = open_run(Path(command.run))
    folder = Path(command.adapter) if command.adapter else newest_adapter_folder(run)
    rows = open_prepared(Path(command.prepared))
    config = run.record.config
    name = yield from load_trained(run, folder, holder)
    adapted = holder.held
    assert adapted is not None
    result, exact = yield from _measure(adapted, rows, config, run.state.step, stopped)
    accuracy, accuracy_rows, comparison = None, 0, None
    if config.training.method == "sft" and config.data.train_on != "everything" and result.rows:
        accuracy, accuracy_rows = exact / result.rows, result.rows
        comparison = yield from _compared_with_base(adapted, name, rows, config, run.state.step, stopped)
        if comparison is not None:
            accuracy = comparison.adapter_right / comparison.questions
        else:
            numbers = yield from _share_of_right_numbers(adapted, rows, run.state.step, stopped)
            accuracy, accuracy_rows = numbers or (accuracy, accuracy_rows)
    yield EvaluationReport(
        id=command.id,
        loss=result.loss if result.loss is not None and math.isfinite(result.loss) else None,
        perplexity=result.perplexity,
        accuracy=accuracy,
        rows=result.rows,
        learned_tokens=result.learned_tokens,
        accuracy_rows=accuracy_rows,
        comparison=comparison,
    )


def _compared_with_base(
    adapted: AdaptedModel,
    name: str,
    rows: PreparedRows,
    config: RunConfig,
    step: int,
    stopped: Callable[[], bool],
) -> Generator[EvaluationProgress, None, BaseComparison | None]:
    """Where every row asks for one of several letters: how many the base finds, and how many the adapter."""
    if adapted.base.source.startswith(SHAPE_PREFIX):
        return None  # random weights have no tokenizer
    questions = choice_questions(rows, load_tokenizer(Path(adapted.base.source)))
    if not questions:
        return None
    try:
        adapted.use(None)
        base = yield from _letters(adapted, questions, rows, config, step, stopped, "Asking the base model")
    finally:
        adapted.use(name)
    tuned = yield from _letters(adapted, questions, rows, config, step, stopped, "Asking with the adapter")
    right = np.array([question.right for question in questions])
    changed = np.flatnonzero((base == right) != (tuned == right))
    gained, lost = int((tuned[changed] == right[changed]).sum()), int((base[changed] == right[changed]).sum())
    low, high = difference_interval(gained, lost, len(questions))
    return BaseComparison(
        questions=len(questions),
        base_right=int((base == right).sum()),
        adapter_right=int((tuned == right).sum()),
        gained=gained,
        lost=lost,
        low=low,
        high=high,
        p_value=mcnemar_p(gained, lost),
        changed=tuple(
            _changed(questions[place], int(base[place]), int(tuned[place]))
            for place in changed[:MOST_CHANGED].tolist()
        ),
    )


def _letters(
    adapted: AdaptedModel,
    questions: Sequence[ChoiceQuestion],
    rows: PreparedRows,
    config: RunConfig,
    step: int,
    stopped: Callable[[], bool],
    words: str,
) -> Generator[EvaluationProgress, None, NDArray[np.int64]]:
    """int64 [questions]: the place of the letter that the model as it stands finds the likeliest."""
    choosing = likeliest_letters(adapted.causal_lm, adapted.base.device, questions, config, rows.info.pad_id)
    while not stopped():
        try:
            done = next(choosing)
        except StopIteration as finished:
            chosen: NDArray[np.int64] = finished.value
            return chosen
        yield EvaluationProgress(step=step, done=done, total=len(questions), words=words)
    raise StudioError("The evaluation was stopped.")


def _changed(question: ChoiceQuestion, base: int, tuned: int) -> ChangedRow:
    return ChangedRow(
        row=question.row,
        question=question.text,
        right=question.letters[question.right],
        base=question.letters[base],
        adapter=question.letters[tuned],
    )


def _share_of_right_numbers(
    adapted: AdaptedModel, rows: PreparedRows, step: int, stopped: Callable[[], bool]
) -> Generator[EvaluationProgress, None, tuple[float, int] | None]:
    """Where every answer ends in a number that alone counts, however a reply comes to it; and of how many."""
    if adapted.base.source.startswith(SHAPE_PREFIX):
        return None  # random weights have no tokenizer
    decode = load_tokenizer(Path(adapted.base.source)).decode
    questions = number_questions(rows, decode)
    if not questions:
        return None
    answering = right_numbers(adapted.causal_lm, questions, rows, decode)
    told = time.monotonic()
    while not stopped():
        try:
            written = next(answering)
        except StopIteration as finished:
            return finished.value / len(questions), len(questions)
        if time.monotonic() - told >= _PROGRESS_S:
            told = time.monotonic()
            yield _tokens_written(step, written, len(questions))
    raise StudioError("The evaluation was stopped.")


def _tokens_written(step: int, written: TokensWritten, questions: int) -> EvaluationProgress:
    last = written.first + written.count
    return EvaluationProgress(
        step=step,
        done=written.tokens,
        total=written.most_tokens,
        words=f"Answering rows {written.first + 1} to {last} of {questions}, tokens",
    )


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
        # A processor gains nothing by several at once, and a person hears sooner how far it is.
        batch_size=config.training.batch_size if adapted.base.device.is_cuda else 1,
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
