"""Questions with several letters to choose from: base against adapter, each letter by its log-probability."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from qlora_studio.data.choice_questions import ChoiceQuestion, choice_questions
from qlora_studio.data.prepared import PreparedRows, open_prepared
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.engine import adapter_evaluation
from qlora_studio.engine.adapter_evaluation import evaluate_adapter, rows_that_fit
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.multiple_choice import likeliest_letters
from qlora_studio.engine.paired_comparison import difference_interval, mcnemar_p
from qlora_studio.engine.prepared_run import NO_LETTERS
from qlora_studio.engine.wish import Wish
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Evaluate
from qlora_studio.protocol.events import EvaluationFinished, EvaluationReport, ModelLoaded, StepFinished
from qlora_studio.protocol.lines import LONGEST_LINE
from qlora_studio.runs.evaluations import ChangedRow
from qlora_studio.runs.run_record import read_record
from tests.engine.byte_tokenizer import VOCAB, write_byte_tokenizer
from tests.engine.tiny import CPU, events_of, loaded, make_model, make_run, of_kind
from tests.engine.tuned_run import make_tuned_run

NAMES = ["order", "groups", "the heart", "rust", "a star", "tides", "law", "ethics", "bread", "salt"]
TOPICS = [f"{name} {number}" for number in range(2) for name in NAMES]
SETTINGS: dict[str, Any] = {"data__seq_len": 240, "model__quantization": "none"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = make_model(tmp_path / "model", vocab_size=VOCAB)
    write_byte_tokenizer(folder)
    return folder


def mmlu_row(model: Path, number: int, question: str, answer: str) -> TokenizedRow:
    """As a template writes it: the answer and an end token are learned."""
    tokenizer = load_tokenizer(model)
    prompt, said = tokenizer.encode_rendered([f"<|begin|>{question}", f"{answer}<|end|>"])
    ids = np.array([*prompt.ids, *said.ids], np.int32)
    weights = np.zeros(len(ids), np.float32)
    weights[len(prompt.ids) :] = 1
    return TokenizedRow(number, ids, weights)


def question_about(topic: str) -> str:
    return f"What of {topic}?\nA. all\nB. some\nC. none\nD. {topic}\nAnswer:"


@pytest.fixture
def rows(model: Path) -> list[TokenizedRow]:
    return [
        mmlu_row(model, 7 + number, question_about(topic), "ABCD"[number % 4])
        for number, topic in enumerate(TOPICS)
    ]


def prepared(tmp_path: Path, model: Path, rows: list[TokenizedRow]) -> PreparedRows:
    run = make_run(tmp_path, model, validation=rows, **SETTINGS)
    return open_prepared(Path(read_record(run).record.prepared.folder))


def report_of(run: Path, holder: ModelHolder) -> EvaluationReport:
    folder = read_record(run).record.prepared.folder
    report = list(evaluate_adapter(Evaluate(id=4, run=str(run), prepared=folder), holder, lambda: False))[-1]
    assert isinstance(report, EvaluationReport)
    return report


def exact_logits(model: PreTrainedModel, question: ChoiceQuestion) -> Tensor:
    """float64 [letters]: of a question alone, by the head's definition."""
    ids = torch.tensor(question.prompt.tolist())[None]
    with torch.no_grad():
        at_end = model.base_model(input_ids=ids).last_hidden_state[0, -1].double()
        return model.lm_head.weight[list(question.letter_ids)].double() @ at_end


def test_base_and_adapter_answer_with_the_letter_of_the_highest_log_probability(
    tmp_path: Path, model: Path, rows: list[TokenizedRow]
) -> None:
    holder = ModelHolder(CPU)
    run = make_tuned_run(tmp_path, model, validation=rows, **SETTINGS)

    report = report_of(run, holder)

    compared = report.comparison
    assert compared is not None and holder.held is not None
    name = next(iter(holder.held.names))
    questions = choice_questions(prepared(tmp_path, model, rows), load_tokenizer(model))
    said: dict[str, list[str]] = {}
    for side, adapter in (("adapter", name), ("base", None)):
        holder.held.use(adapter)
        said[side] = []
        for question in questions:
            logits = exact_logits(holder.held.causal_lm, question)
            said[side].append("ABCD"[int(logits.argmax())])
    right = ["ABCD"[number % 4] for number in range(len(rows))]
    gained = [i for i, letter in enumerate(right) if said["base"][i] != letter == said["adapter"][i]]
    lost = [i for i, letter in enumerate(right) if said["adapter"][i] != letter == said["base"][i]]
    assert said["base"] != said["adapter"]
    assert gained or lost
    assert (compared.gained, compared.lost) == (len(gained), len(lost))
    assert compared.base_right == sum(map(str.__eq__, said["base"], right))
    assert compared.adapter_right == sum(map(str.__eq__, said["adapter"], right))
    assert report.accuracy == compared.adapter_right / len(rows)
    assert (compared.low, compared.high) == difference_interval(len(gained), len(lost), len(rows))
    assert compared.p_value == mcnemar_p(len(gained), len(lost))
    changed = sorted([*gained, *lost])
    assert [row.row for row in compared.changed] == [7 + i for i in changed]
    assert [row.right for row in compared.changed] == [right[i] for i in changed]
    assert [row.base for row in compared.changed] == [said["base"][i] for i in changed]
    assert compared.changed[0].question == f"What of {TOPICS[changed[0]]}?"


def test_letters_that_bfloat16_can_not_tell_apart_are_told_apart(
    tmp_path: Path, model: Path, rows: list[TokenizedRow]
) -> None:
    prepared_rows = prepared(tmp_path, model, rows)
    questions = choice_questions(prepared_rows, load_tokenizer(model))
    held = loaded(load_base(str(model), Storage("none", False, torch.bfloat16), CPU)).causal_lm
    with torch.no_grad():
        held.model.norm.weight.zero_()
        held.model.norm.weight[:2] = torch.tensor([256.0, 1 / 16])
        letters = held.lm_head.weight[list(questions[0].letter_ids)].zero_()
        letters[:, 0] = 1  # of all alike, and large
        letters[:, 1] = torch.tensor([-2.0, -1.0, 1.0, 2.0])  # what tells them apart, and small
        held.lm_head.weight[list(questions[0].letter_ids)] = letters
    exact = [exact_logits(held, question) for question in questions]

    chosen = letters_of(held, questions, tmp_path, prepared_rows)

    likeliest = [int(logits.argmax()) for logits in exact]
    assert likeliest != [int(logits.bfloat16().argmax()) for logits in exact]
    assert chosen == likeliest


def test_what_is_no_number_is_no_answer(tmp_path: Path, model: Path, rows: list[TokenizedRow]) -> None:  # R12
    prepared_rows = prepared(tmp_path, model, rows)
    questions = choice_questions(prepared_rows, load_tokenizer(model))
    held = loaded(load_base(str(model), Storage("none", False, torch.float32), CPU)).causal_lm
    with torch.no_grad():
        held.model.norm.weight[0] = float("nan")
    with pytest.raises(StudioError, match=r"no letter in row \d+: what it makes of them is not finite"):
        letters_of(held, questions, tmp_path, prepared_rows)


def letters_of(
    model: PreTrainedModel, questions: list[ChoiceQuestion], home: Path, rows: PreparedRows
) -> list[int]:
    config = read_record(next((home / "runs").iterdir())).record.config
    chosen: NDArray[np.int64] = loaded(likeliest_letters(model, CPU, questions, config, rows.info.pad_id))
    return chosen.tolist()


def test_after_the_comparison_the_adapter_is_on_again(
    tmp_path: Path, model: Path, rows: list[TokenizedRow]
) -> None:
    holder = ModelHolder(CPU)
    run = make_tuned_run(tmp_path, model, validation=rows, **SETTINGS)
    assert report_of(run, holder).loss == report_of(run, holder).loss


def test_the_last_choices_count_where_examples_stand_before_them(tmp_path: Path, model: Path) -> None:
    example = "What is 1?\nA. one\nB. two\nAnswer: A\n\n"
    row = mmlu_row(model, 0, example + "And 2?\n(A) one\n(B) two\n(C) six\nAnswer:", "B")
    question = choice_questions(prepared(tmp_path, model, [row]), load_tokenizer(model))[0]
    assert (question.letters, question.right, question.text) == ("ABC", 1, "And 2?")


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("What is 1?\nAnswer:", "A"),
        ("What is 1?\nA. one\nB. two\nAnswer:", "C"),
        ("What is 1?\nA. one\nB. two\nAnswer:", "one"),
        ("What is 1?\nA. one\nC. two\nAnswer:", "A"),
        ("What is 1?\nB. one\nC. two\nAnswer:", "B"),
    ],
)
def test_one_row_that_asks_otherwise_makes_it_no_multiple_choice(
    tmp_path: Path, model: Path, rows: list[TokenizedRow], asked: str, answer: str
) -> None:
    mixed = [*rows, mmlu_row(model, 99, asked, answer)]
    assert choice_questions(prepared(tmp_path, model, mixed), load_tokenizer(model)) == []


def test_a_report_names_no_more_rows_than_a_line_has_room_for(
    tmp_path: Path, model: Path, rows: list[TokenizedRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_evaluation, "MOST_CHANGED", 1)
    compared = report_of(
        make_tuned_run(tmp_path, model, validation=rows, **SETTINGS), ModelHolder(CPU)
    ).comparison
    assert compared is not None
    assert compared.gained + compared.lost > 1
    assert len(compared.changed) == 1


@pytest.mark.parametrize(("letter", "most"), [("a", 1_000), ("🙂", 800), ("\x01", 800)])
def test_the_changed_rows_of_a_report_leave_room_in_a_line_whatever_letters_they_hold(
    letter: str, most: int
) -> None:
    rows = [
        ChangedRow(row=row, question=200 * letter, right=100 * letter, base="none", adapter=100 * letter)
        for row in range(1_000)
    ]
    named = list(rows_that_fit(rows))
    assert 300 < len(named) <= most
    assert len(msgspec.json.encode(named)) < LONGEST_LINE - 100_000


def test_a_comparison_that_is_stopped_ends_with_the_adapter_on(
    tmp_path: Path, model: Path, rows: list[TokenizedRow]
) -> None:
    holder = ModelHolder(CPU)
    run = make_tuned_run(tmp_path, model, validation=rows, **SETTINGS)
    folder = read_record(run).record.prepared.folder
    loss = report_of(run, holder).loss
    asked: list[str] = []
    evaluating = evaluate_adapter(
        Evaluate(id=4, run=str(run), prepared=folder), holder, lambda: "Asking the base model" in asked
    )
    with pytest.raises(StudioError, match="stopped"):
        asked.extend(getattr(event, "words", "") for event in evaluating)
    assert report_of(run, holder).loss == loss


def test_a_run_counts_right_letters_at_each_of_its_evaluations(
    tmp_path: Path, model: Path, rows: list[TokenizedRow]
) -> None:
    learned = {"training__steps": 4, "checkpoints__evaluate_letters": True, "training__learning_rate": 0.0}
    run = make_run(tmp_path, model, rows, rows, **SETTINGS | learned)

    measured = of_kind(events_of(run), EvaluationFinished)

    assert [event.step for event in measured] == [0, 2, 4]
    after = report_of(run, ModelHolder(CPU)).comparison
    assert after is not None
    assert {event.right for event in measured} == {after.base_right}  # nothing was learned
    assert {event.questions for event in measured} == {len(rows)}


def test_counting_letters_changes_nothing_that_is_learned(
    tmp_path: Path, model: Path, rows: list[TokenizedRow]
) -> None:
    def losses(**changes: Any) -> list[Any]:
        run = make_run(tmp_path, model, rows, rows[:5], training__steps=4, **SETTINGS | changes)
        return [event.loss for event in of_kind(events_of(run), StepFinished)]

    assert losses(checkpoints__evaluate_letters=True) == losses()


def test_rows_that_are_no_multiple_choice_are_told_of_and_not_counted(
    tmp_path: Path, model: Path, rows: list[TokenizedRow]
) -> None:
    held_out = [*rows[:3], mmlu_row(model, 9, "What is it?", "A thing")]
    run = make_run(
        tmp_path, model, rows, held_out, training__steps=1, checkpoints__evaluate_letters=True, **SETTINGS
    )

    events = events_of(run)

    assert {event.right for event in of_kind(events, EvaluationFinished)} == {None}
    assert any(NO_LETTERS in event.notes for event in of_kind(events, ModelLoaded))


def test_a_pause_while_letters_are_counted_is_heard(
    tmp_path: Path, model: Path, rows: list[TokenizedRow]
) -> None:
    run = make_run(
        tmp_path, model, rows, rows, training__steps=4, checkpoints__evaluate_letters=True, **SETTINGS
    )
    paused = events_of(run, Wish.PAUSE, after_step=2)
    assert paused[-1].state == "paused"
    gone_on = of_kind(events_of(run), EvaluationFinished)
    assert all(event.right is not None for event in gone_on)
