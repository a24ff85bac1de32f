"""What a run made, on the rows of another file: its loss, how many answers are right, and how many before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from qlora_studio.config.run_config import SHAPE_PREFIX, RunConfig
from qlora_studio.data.choice_questions import ChoiceQuestion, choice_questions
from qlora_studio.data.packing import Batch, MicroBatch, collate, evaluation_batches
from qlora_studio.data.prepared import PreparedRows, open_prepared
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.evaluation import EvaluationResult
from qlora_studio.engine.learned_loss import Head, learned_hidden_states
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.multiple_choice import likeliest_letters
from qlora_studio.engine.number_answers import (
    Decode,
    NumberQuestion,
    answered_numbers,
    number_questions,
    question_line,
)
from qlora_studio.engine.packed_batch import PackedBatch, on_device
from qlora_studio.engine.paired_comparison import difference_interval, mcnemar_p
from qlora_studio.engine.trained_model import TrainedModel, newest_result
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Evaluate
from qlora_studio.protocol.events import (
    BaseComparison,
    EvaluationProgress,
    EvaluationReport,
    LoadingProgress,
)
from qlora_studio.runs.evaluations import ChangedRow
from qlora_studio.runs.folder import open_run

MOST_CHANGED = 1_000  # rows that a report names
_CHANGED_BYTES = 800_000  # of these: a line of the protocol ends at 1,000,000
_CHUNK_LOGITS = 2**23  # that exist at one time
_PROGRESS_S = 0.2
_LONGEST_ANSWER = 100  # characters of one that is shown
ANOTHER = "another answer"  # of a row whose tokens were compared: what would have been said isn't known

R = TypeVar("R")
Working = Generator[LoadingProgress | EvaluationProgress, None, R]


@dataclass(frozen=True, eq=False)
class _Evaluating:
    """The rows that the trained model is asked about, unless the base is meant."""

    trained: TrainedModel
    rows: PreparedRows
    config: RunConfig
    step: int
    stopped: Callable[[], bool]

    @property
    def adapted(self) -> AdaptedModel:
        """What is on the device."""
        return self.trained.adapted

    def words(self, doing: str) -> str:
        """What is told while the trained model is asked."""
        return f"{doing} {'the trained model' if self.config.trains_all else 'with the adapter'}"

    @property
    def have_answers(self) -> bool:
        """Raw text has none, and pairs of answers are no single ones."""
        data, training = self.config.data, self.config.training
        return (
            training.method != "pretrain" and data.train_on != "everything" and len(self.rows.validation) > 0
        )

    def progress(self, done: int, total: int, words: str = "") -> EvaluationProgress:
        """Raises: StudioError where it is no longer wanted."""
        if self.stopped():
            raise StudioError("The evaluation was stopped.")
        return EvaluationProgress(step=self.step, done=done, total=total, words=words)

    def by_base(self, work: Working[R]) -> Working[R]:
        """The same work by what was there before training. What was trained is loaded again after it."""
        yield from self.trained.load_base()
        try:
            result = yield from work
        finally:
            self.trained.switch_on()
        yield from self.trained.load()
        return result


@dataclass(frozen=True)
class _Question:
    """row: index in the imported data set."""

    row: int
    text: str
    right: str


def evaluate_adapter(
    command: Evaluate, holder: ModelHolder, stopped: Callable[[], bool]
) -> Iterator[LoadingProgress | EvaluationProgress | EvaluationReport]:
    """Raises: StudioError."""
    run = open_run(Path(command.run))
    folder, step = newest_result(run)
    rows = open_prepared(Path(command.prepared))
    trained = TrainedModel(run, folder, holder)
    yield from trained.load()
    evaluating = _Evaluating(trained, rows, run.record.config, step, stopped)
    tuned = yield from _measure(evaluating, evaluating.words("Measuring"))
    base = None
    if command.with_base:
        base = yield from evaluating.by_base(_measure(evaluating, "Measuring the base model"))
    accuracy, accuracy_rows, comparison = None, 0, None
    if evaluating.have_answers:
        accuracy, accuracy_rows, comparison = yield from _right_answers(evaluating, tuned, base)
    yield EvaluationReport(
        id=command.id,
        step=step,
        loss=_finite(tuned.result.loss),
        perplexity=tuned.result.perplexity,
        base_loss=_finite(base.result.loss) if base else None,
        accuracy=accuracy,
        rows=tuned.result.rows,
        learned_tokens=tuned.result.learned_tokens,
        accuracy_rows=accuracy_rows,
        comparison=comparison,
    )


def _right_answers(
    evaluating: _Evaluating, tuned: _Measured, base: _Measured | None
) -> Working[tuple[float, int, BaseComparison | None]]:
    """The share after training, of how many rows, and how it is beside the base where that was asked."""
    rows = evaluating.rows
    decode: Decode | None = None
    letters: list[ChoiceQuestion] = []
    numbers: list[NumberQuestion] = []
    if not evaluating.adapted.base.source.startswith(SHAPE_PREFIX):  # random weights have no tokenizer
        tokenizer = load_tokenizer(Path(evaluating.adapted.base.source))
        decode = tokenizer.decode
        letters = choice_questions(rows, tokenizer)
        numbers = [] if letters else number_questions(rows, decode)
    kind = "letters" if letters else "numbers" if numbers else "answers"
    if letters:
        questions = [_Question(item.row, item.text, item.letters[item.right]) for item in letters]
        said = yield from _letters(evaluating, letters, evaluating.words("Asking"))
    elif numbers:
        questions = [_Question(item.row, item.text, item.number) for item in numbers]
        said = yield from _numbers(evaluating, numbers, "Answering")
    else:
        questions = [_whole_answer(rows.validation[place], decode) for place in range(len(rows.validation))]
        said = _exact(questions, tuned)
    right = sum(answer == question.right for question, answer in zip(questions, said, strict=True))
    if base is None:
        return right / len(questions), len(questions), None
    if letters:
        before = yield from evaluating.by_base(_letters(evaluating, letters, "Asking the base model"))
    elif numbers:
        before = yield from evaluating.by_base(_numbers(evaluating, numbers, "The base model is answering"))
    else:
        before = _exact(questions, base)
    return right / len(questions), len(questions), _compared(kind, questions, before, said)


def _compared(
    kind: str, questions: Sequence[_Question], base: Sequence[str], tuned: Sequence[str]
) -> BaseComparison:
    """base, tuned: what each of them says to each question."""
    right = np.array([question.right for question in questions])
    base_right, tuned_right = np.array(base) == right, np.array(tuned) == right
    gained, lost = int((tuned_right & ~base_right).sum()), int((base_right & ~tuned_right).sum())
    low, high = difference_interval(gained, lost, len(questions))
    changed = np.flatnonzero(base_right != tuned_right)[:MOST_CHANGED].tolist()
    return BaseComparison(
        kind=kind,
        questions=len(questions),
        base_right=int(base_right.sum()),
        adapter_right=int(tuned_right.sum()),
        gained=gained,
        lost=lost,
        low=low,
        high=high,
        p_value=mcnemar_p(gained, lost),
        changed=tuple(
            rows_that_fit(
                ChangedRow(
                    row=questions[place].row,
                    question=questions[place].text,
                    right=questions[place].right,
                    base=base[place],
                    adapter=tuned[place],
                )
                for place in changed
            )
        ),
    )


def rows_that_fit(rows: Iterable[ChangedRow]) -> Iterator[ChangedRow]:
    """The first ones, as many as a report has room for: a letter takes up to 4 bytes, and 6 as an escape."""
    left = _CHANGED_BYTES
    for row in rows:
        left -= len(msgspec.json.encode(row)) + 1  # the comma
        if left < 0:
            return
        yield row


def _letters(evaluating: _Evaluating, questions: Sequence[ChoiceQuestion], words: str) -> Working[list[str]]:
    """The letter that the model as it stands finds the likeliest, of each question."""
    choosing = likeliest_letters(
        evaluating.adapted.causal_lm,
        evaluating.adapted.base.device,
        questions,
        evaluating.config,
        evaluating.rows.info.pad_id,
    )
    while True:
        try:
            done = next(choosing)
        except StopIteration as finished:
            return [question.letters[at] for question, at in zip(questions, finished.value, strict=True)]
        yield evaluating.progress(done, len(questions), words)


def _numbers(evaluating: _Evaluating, questions: Sequence[NumberQuestion], words: str) -> Working[list[str]]:
    """The number that each reply of the model as it stands ends in; "none" where there is none."""
    source = Path(evaluating.adapted.base.source)
    decode = load_tokenizer(source).decode
    answering = answered_numbers(evaluating.adapted.causal_lm, questions, evaluating.rows, decode)
    told = -_PROGRESS_S
    while True:
        try:
            written = next(answering)
        except StopIteration as finished:
            return [number or "none" for number in finished.value]
        if evaluating.stopped() or time.monotonic() - told >= _PROGRESS_S:
            told = time.monotonic()
            last = written.first + written.count
            which = f"{words} rows {written.first + 1} to {last} of {len(questions)}, tokens"
            yield evaluating.progress(written.tokens, written.most_tokens, which)


def _whole_answer(row: TokenizedRow, decode: Decode | None) -> _Question:
    learned = np.flatnonzero(row.weights)
    begin = int(learned[0]) if len(learned) else 0
    if decode is None:
        return _Question(row.row, "", "its own")
    right = decode(row.ids[learned].tolist()).strip()[:_LONGEST_ANSWER] or "nothing"
    return _Question(row.row, question_line(decode(row.ids[:begin].tolist())), right)


def _exact(questions: Sequence[_Question], measured: _Measured) -> list[str]:
    return [
        question.right if exact else ANOTHER
        for question, exact in zip(questions, measured.exact, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Measured:
    """exact: bool [rows], whether greedy decoding gives back the row's answer."""

    result: EvaluationResult
    exact: NDArray[np.bool_]


def _measure(evaluating: _Evaluating, words: str) -> Working[_Measured]:
    """The model as it stands on every row."""
    model, device = evaluating.adapted.causal_lm, evaluating.adapted.base.device.torch_device
    rows, config = evaluating.rows, evaluating.config
    model.eval()
    nats, learned, done = 0.0, 0, 0
    exact = np.zeros(len(rows.validation), np.bool_)
    for micro_batch in evaluation_batches(
        rows.validation.lengths,
        seq_len=rows.info.seq_len,
        packing=config.data.packing,
        # A processor gains nothing by several at once, and a person hears sooner how far it is.
        batch_size=config.training.batch_size if evaluating.adapted.base.device.is_cuda else 1,
    ):
        if evaluating.stopped():
            raise StudioError("The evaluation was stopped.")
        batch = collate(micro_batch, rows.validation, pad_id=rows.info.pad_id)
        seen = _look_at(model, on_device(batch, device, keep_padding=False))
        nats += seen.nats
        exact[_rows_without_mistake(micro_batch, batch, seen.right)] = True
        learned += batch.learned_tokens
        done += len(batch.rows)
        yield evaluating.progress(done, len(rows.validation), words)
    result = EvaluationResult(nats / learned if learned else None, done, learned, seconds=0.0)
    return _Measured(result, exact)


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None


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


def _rows_without_mistake(micro_batch: MicroBatch, batch: Batch, right: NDArray[np.bool_]) -> list[int]:
    """Their places.

    Greedy decoding gives back an answer exactly where each of its tokens is the likeliest.
    """
    rows = batch.chats // 2
    without = set(rows.tolist()) - set(rows[~right].tolist())
    return [
        place for row, place in enumerate(place for pack in micro_batch for place in pack) if row in without
    ]
