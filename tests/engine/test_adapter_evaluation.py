"""A run's adapter on the rows of another file."""

from pathlib import Path
from typing import Any

import pytest

from qlora_studio.engine.adapter_evaluation import ANOTHER, evaluate_adapter
from qlora_studio.engine.greedy import continue_greedily
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.wish import Wish
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Evaluate
from qlora_studio.protocol.events import EvaluationFinished, EvaluationProgress, EvaluationReport
from qlora_studio.runs.run_record import read_record
from tests.engine.tiny import CPU, events_of, make_model, make_rows, make_run, of_kind

# Enough to know some of the rows by heart.
LEARNED: dict[str, Any] = {
    "training__steps": 60,
    "lora__r": 16,
    "checkpoints__evaluate_every_steps": 60,
    "checkpoints__every_steps": 60,
}


@pytest.fixture
def rows() -> list[Any]:
    return make_rows(6)


@pytest.fixture
def run(tmp_path: Path, rows: list[Any]) -> Path:
    """It was trained on the very rows it is asked about, and has evaluated them too."""
    return make_run(tmp_path, make_model(tmp_path / "model"), rows, rows, **LEARNED)


def report_of(run: Path, holder: ModelHolder) -> list[Any]:
    prepared = read_record(run).record.prepared.folder
    return list(evaluate_adapter(Evaluate(id=4, run=str(run), prepared=prepared), holder, lambda: False))


def test_the_loss_is_that_of_the_runs_own_evaluation(run: Path) -> None:
    holder = ModelHolder(CPU)
    own = of_kind(events_of(run, holder=holder), EvaluationFinished)[-1]

    *told, report = report_of(run, holder)

    assert isinstance(report, EvaluationReport)
    assert (report.id, report.rows, report.learned_tokens) == (4, own.rows, own.learned_tokens)
    assert report.loss == pytest.approx(own.loss, rel=1e-5)
    assert report.perplexity == pytest.approx(own.perplexity, rel=1e-5)
    assert of_kind(told, EvaluationProgress)[-1].done == 6


def test_the_base_alone_is_measured_beside_the_adapter(run: Path, rows: list[Any]) -> None:
    holder = ModelHolder(CPU)
    own = of_kind(events_of(run, holder=holder), EvaluationFinished)

    report = report_of(run, holder)[-1]

    assert own[0].step == 0
    assert report.base_loss == pytest.approx(own[0].loss, rel=1e-5)
    compared = report.comparison
    assert (compared.kind, compared.questions) == ("answers", 6)
    assert compared.adapter_right / 6 == report.accuracy
    learned = compared.changed[0]
    assert (learned.row, learned.base, learned.adapter) == (rows[learned.row].row, ANOTHER, learned.right)


def test_without_the_base_it_is_not_measured(run: Path) -> None:
    holder = ModelHolder(CPU)
    events_of(run, holder=holder)
    prepared = read_record(run).record.prepared.folder
    command = Evaluate(id=4, run=str(run), prepared=prepared, with_base=False)
    *told, report = evaluate_adapter(command, holder, lambda: False)
    assert isinstance(report, EvaluationReport)
    assert (report.base_loss, report.comparison) == (None, None)
    assert report.accuracy
    assert sum(event.done == 6 for event in of_kind(told, EvaluationProgress)) == 1


def test_accuracy_is_the_share_of_answers_that_greedy_decoding_gives_back(run: Path, rows: list[Any]) -> None:
    holder = ModelHolder(CPU)
    events_of(run, holder=holder)

    report = report_of(run, holder)[-1]

    assert holder.held is not None
    model = holder.held.causal_lm
    given = 0
    for row in rows:
        ids = row.ids.tolist()
        answer = ids[len(ids) // 2 :]
        prompt = ids[: len(ids) // 2]
        given += continue_greedily(model, prompt, max_tokens=len(answer), stop_ids=()) == answer
    assert report.accuracy == given / len(rows)
    assert given


def test_raw_text_has_no_answers_that_could_be_compared(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    run = make_run(tmp_path, model, training__steps=1, training__method="pretrain")
    events_of(run)

    assert report_of(run, ModelHolder(CPU))[-1].accuracy is None


def test_a_run_without_an_adapter_is_refused(run: Path) -> None:
    with pytest.raises(StudioError, match="has no adapter yet"):
        report_of(run, ModelHolder(CPU))


def test_an_evaluation_whose_window_is_gone_ends(run: Path) -> None:
    holder = ModelHolder(CPU)
    events_of(run, holder=holder)
    prepared = read_record(run).record.prepared.folder
    with pytest.raises(StudioError, match="stopped"):
        list(evaluate_adapter(Evaluate(id=1, run=str(run), prepared=prepared), holder, lambda: True))


def test_of_all_weights_base_and_trained_model_are_measured_one_after_the_other(
    tmp_path: Path, rows: list[Any]
) -> None:
    full = {"training__finetuning": "full", "model__quantization": "none", "training__learning_rate": 1e-3}
    run = make_run(tmp_path, make_model(tmp_path / "model"), rows, rows, **LEARNED, **full)
    holder = ModelHolder(CPU)
    own = of_kind(events_of(run, holder=holder), EvaluationFinished)

    report = report_of(run, holder)[-1]

    assert report.base_loss == pytest.approx(own[0].loss, rel=1e-4)
    assert report.loss == pytest.approx(own[-1].loss, rel=0.02)  # its weights were rounded to 16 bit
    assert report.accuracy == pytest.approx(report.comparison.adapter_right / 6)
    assert holder.held is not None
    assert holder.held.base.source == str(run / "model")


def test_of_all_weights_nothing_is_measured_before_there_is_a_model(tmp_path: Path, rows: list[Any]) -> None:
    full = {"training__finetuning": "full", "model__quantization": "none"}
    run = make_run(tmp_path, make_model(tmp_path / "model"), rows, rows, **LEARNED, **full)
    events_of(run, Wish.PAUSE, after_step=1)
    with pytest.raises(StudioError, match="has no model yet"):
        report_of(run, ModelHolder(CPU))
