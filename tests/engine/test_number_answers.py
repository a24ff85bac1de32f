from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from qlora_studio.data.prepared import PreparedRows, open_prepared
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.engine import adapter_evaluation, number_answers, prepared_run, training_job
from qlora_studio.engine.adapter_evaluation import evaluate_adapter
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.greedy import continue_greedily, continue_together
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.number_answers import (
    MOST_ASKED,
    NumberQuestion,
    TokensWritten,
    number_in,
    number_questions,
)
from qlora_studio.engine.prepared_run import NO_NUMBERS, PreparedRun, Start
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Evaluate
from qlora_studio.protocol.events import (
    EvaluationFinished,
    EvaluationProgress,
    EvaluationReport,
    ModelLoaded,
    StepFinished,
)
from qlora_studio.runs.metrics import METRICS_FILE, read_metrics
from qlora_studio.runs.run_record import read_record
from qlora_studio.runs.run_writer import RunWriter
from tests.engine.byte_tokenizer import VOCAB, write_byte_tokenizer
from tests.engine.tiny import CPU, FAMILIES, events_of, loaded, make_model, make_rows, make_run, of_kind
from tests.engine.tuned_run import make_tuned_run


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6 + 12 = <<6+12=18>>18 eggs\n#### 18", "18"),
        ("so #### 1,234.50 dollars", "1234.5"),
        ("#### $-7.", "-7"),
        ("#### 3 then #### 4", "4"),
        ("#### 10.0", "10"),
        ("the answer is 18", None),
        ("#### many", None),
    ],
)
def test_only_the_number_after_the_last_mark_counts(text: str, number: str | None) -> None:
    assert number_in(text) == number


@pytest.mark.parametrize("lengths", [(12, 12, 12, 12), (12, 3, 1, 9)], ids=["alike", "unlike"])
@pytest.mark.parametrize("family", FAMILIES)
def test_replies_written_together_are_those_written_alone(
    tmp_path: Path, family: str, lengths: tuple[int, ...]
) -> None:
    folder = make_model(tmp_path / "model", family)
    model = loaded(load_base(str(folder), Storage("none", False, torch.float32), CPU)).causal_lm
    prompts = [
        [(3 + 7 * row + place) % 90 + 3 for place in range(length)] for row, length in enumerate(lengths)
    ]
    alone = [continue_greedily(model, prompt, 10, (2,)) for prompt in prompts]
    ends = alone[0][4]

    assert loaded(continue_together(model, prompts, 10, (2,))) == alone
    cut = [reply[: reply.index(ends)] if ends in reply else reply for reply in alone]
    assert loaded(continue_together(model, prompts, 10, (2, ends))) == cut


def as_numbers(ids: Sequence[int]) -> str:
    """The last token is the number."""
    return f"#### {ids[-1]}" if len(ids) else ""


def prepared(tmp_path: Path, rows: list[TokenizedRow]) -> PreparedRows:
    run = make_run(tmp_path, tmp_path, validation=rows)
    return open_prepared(Path(read_record(run).record.prepared.folder))


def test_a_question_is_what_stands_before_the_answer(tmp_path: Path) -> None:
    (row,) = make_rows(1)
    (question,) = number_questions(prepared(tmp_path, [row]), as_numbers)
    half = len(row.ids) // 2
    assert question.prompt == tuple(row.ids[:half].tolist())
    assert question.number == str(row.ids[-1])
    assert question.most_tokens == 2 * (len(row.ids) - half) + 16


def test_rows_with_several_answers_or_none_ask_nothing(tmp_path: Path) -> None:
    row = make_rows(1)[0]
    scattered = np.zeros(len(row.ids), np.float32)
    scattered[[2, 4]] = 1
    several = TokenizedRow(1, row.ids, scattered)
    assert number_questions(prepared(tmp_path / "a", [row, several]), as_numbers) == []
    assert number_questions(prepared(tmp_path / "b", [row]), lambda ids: "no number") == []


def test_of_many_rows_some_are_asked_evenly_spread(tmp_path: Path) -> None:
    rows = make_rows(3 * MOST_ASKED)
    questions = number_questions(prepared(tmp_path, rows), as_numbers)
    assert len(questions) == MOST_ASKED
    assert questions[-1].number == str(rows[-1].ids[-1])


class _Speaks:
    """In place of a tokenizer whose texts would hold numbers."""

    decode = staticmethod(as_numbers)

    @staticmethod
    def encode_rendered(texts: Sequence[str]) -> list[SimpleNamespace]:
        return [SimpleNamespace(ids=np.arange(1, 1 + len(text), dtype=np.int32)) for text in texts]


def test_the_accuracy_is_the_share_of_right_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_evaluation, "load_tokenizer", lambda folder: _Speaks())
    learned: dict[str, Any] = {"training__steps": 60, "lora__r": 16, "checkpoints__every_steps": 60}
    rows = make_rows(6)
    run = make_run(tmp_path, make_model(tmp_path / "model"), rows, rows, **learned)
    events_of(run)
    folder = read_record(run).record.prepared.folder
    monkeypatch.setattr(number_answers, "_SPARE_TOKENS", 0)
    command = Evaluate(id=1, run=str(run), prepared=folder)

    holder = ModelHolder(CPU)
    *_, report = evaluate_adapter(command, holder, lambda: False)

    assert holder.held is not None
    right = 0
    for question in number_questions(open_prepared(Path(folder)), as_numbers):
        reply = continue_greedily(holder.held.causal_lm, question.prompt, question.most_tokens, (2,))
        right += str(reply[-1]) == question.number
    assert isinstance(report, EvaluationReport)
    assert (report.accuracy, report.accuracy_rows) == (right / 6, 6)
    compared = report.comparison
    assert compared is not None
    assert (compared.kind, compared.questions, compared.adapter_right) == ("numbers", 6, right)
    assert compared.gained == right - compared.base_right + compared.lost
    assert compared.changed
    assert all(row.right == str(rows[row.row].ids[-1]) for row in compared.changed)


LEARNS: dict[str, Any] = {"training__steps": 4, "checkpoints__evaluate_numbers": 4}


class _ReadsNumbers(PreparedRun):
    """Its tokens are numbers to it."""

    def __init__(self, writer: RunWriter, start: Start, adapted: AdaptedModel, decode: Any) -> None:
        super().__init__(writer, start, adapted, as_numbers)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = make_model(tmp_path / "model", vocab_size=VOCAB)
    write_byte_tokenizer(folder)
    return folder


def test_a_run_counts_right_numbers_at_each_of_its_evaluations(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_job, "PreparedRun", _ReadsNumbers)
    asked: list[list[NumberQuestion]] = []

    def by_heart(model: Any, questions: list[NumberQuestion], *others: Any) -> Any:
        asked.append(questions)
        yield TokensWritten(0, len(questions), 1, 2)
        return [question.number for question in questions[:-1]] + [None]

    monkeypatch.setattr(prepared_run, "answered_numbers", by_heart)
    rows = make_rows(9)
    run = make_run(tmp_path, model, rows, rows, **LEARNS)

    measured = of_kind(events_of(run), EvaluationFinished)

    assert [(event.step, event.right, event.questions) for event in measured] == [
        (0, 3, 4),
        (2, 3, 4),
        (4, 3, 4),
    ]
    assert {event.kind for event in measured} == {"numbers"}
    assert [question.row for question in asked[0]] == [0, 3, 5, 8]
    lines = read_metrics(run / METRICS_FILE).evaluations
    assert [(line.right, line.kind) for line in lines] == 3 * [(3, "numbers")]


def test_counting_numbers_changes_nothing_that_is_learned(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_job, "PreparedRun", _ReadsNumbers)
    rows = make_rows(6)

    def losses(asked: int) -> list[Any]:
        run = make_run(tmp_path, model, rows, rows, **LEARNS | {"checkpoints__evaluate_numbers": asked})
        return [event.loss for event in of_kind(events_of(run), StepFinished)]

    assert losses(2) == losses(0)


def test_rows_that_end_in_no_number_are_told_of_and_not_counted(tmp_path: Path, model: Path) -> None:
    rows = make_rows(4)
    run = make_run(tmp_path, model, rows, rows, **LEARNS)

    events = events_of(run)

    assert {event.right for event in of_kind(events, EvaluationFinished)} == {None}
    assert any(NO_NUMBERS in event.notes for event in of_kind(events, ModelLoaded))


def test_answering_tells_how_far_it_is_and_ends_at_any_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_evaluation, "load_tokenizer", lambda folder: _Speaks())
    monkeypatch.setattr(adapter_evaluation, "_PROGRESS_S", 0.0)
    rows = make_rows(4)
    run = make_tuned_run(tmp_path, make_model(tmp_path / "model", eos_token_id=None), validation=rows)
    prepared = read_record(run).record.prepared.folder
    command = Evaluate(id=1, run=str(run), prepared=prepared, with_base=False)
    told: list[Any] = []

    def third_token() -> bool:
        return (
            bool(told)
            and isinstance(told[-1], EvaluationProgress)
            and told[-1].words.startswith("Answering")
            and told[-1].done >= 3
        )

    with pytest.raises(StudioError, match="stopped"):
        for event in evaluate_adapter(command, ModelHolder(CPU), third_token):
            told.append(event)

    measured = [event for event in told if isinstance(event, EvaluationProgress)]
    answering = [event for event in measured if event.words.startswith("Answering")]
    assert [event.done for event in answering] == [1, 2, 3]
    assert answering[0].words == "Answering rows 1 to 4 of 4, tokens"
