"""Questions of a file of their own, asked at each evaluation of a run: MMLU while it trains."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from qlora_studio.data.choice_questions import choice_questions
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import EvaluationFinished, RunFailed
from qlora_studio.runs.folder import create_run
from qlora_studio.runs.run_record import read_record
from tests.engine.byte_tokenizer import VOCAB, write_byte_tokenizer
from tests.engine.test_multiple_choice import exact_logits, mmlu_row, prepared
from tests.engine.test_resume import assert_same_bits
from tests.engine.tiny import CPU, events_of, loaded, losses, make_model, make_rows, make_run, of_kind

SHORT: dict[str, Any] = {
    "data__seq_len": 48,
    "training__steps": 4,
    "training__method": "sft",
    "model__quantization": "none",
}
EXAMPLE = "What is it?\nA. one\nB. two\nAnswer: {}\n\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = make_model(tmp_path / "model", vocab_size=VOCAB)
    write_byte_tokenizer(folder)
    return folder


@pytest.fixture
def questions(model: Path) -> list[TokenizedRow]:
    """Five examples before each: far longer than a row of the run."""
    before = "".join(EXAMPLE.format("AB"[number % 2]) for number in range(5))
    return [
        mmlu_row(model, number, f"{before}And {number}?\nA. six\nB. {number}\nAnswer:", "AB"[number % 2])
        for number in range(6)
    ]


def make_asking_run(home: Path, model: Path, asked: list[TokenizedRow], **changes: Any) -> Path:
    """As the reader makes it: the questions lie in a folder of the cache of their own."""
    rows = prepared(home / "questions", model, asked)
    record = read_record(make_run(home, model, make_rows(12), **(SHORT | changes))).record
    checkpoints = msgspec.structs.replace(record.config.checkpoints, questions="/data/mmlu.json")
    config = msgspec.structs.replace(record.config, checkpoints=checkpoints)
    kept = msgspec.structs.replace(record.prepared, questions=str(rows.folder))
    return create_run(home / "runs", msgspec.structs.replace(record, config=config, prepared=kept))


def test_letters_are_counted_of_the_file_and_the_loss_of_the_chats_held_out(
    tmp_path: Path, model: Path, questions: list[TokenizedRow]
) -> None:
    assert min(len(row.ids) for row in questions) > 2 * SHORT["data__seq_len"]
    run = make_asking_run(tmp_path, model, questions)
    plain = make_run(tmp_path, model, make_rows(12), **SHORT)

    events, without = events_of(run), events_of(plain)

    found, expected = of_kind(events, EvaluationFinished), of_kind(without, EvaluationFinished)
    assert [one.loss for one in found] == [one.loss for one in expected]
    assert losses(events) == losses(without)
    assert [one.questions for one in found] == [6] * len(found) and len(found) == 3
    left = AdaptedModel(loaded(load_base(str(model), Storage("none", True, torch.float32), CPU)))
    left.use(left.add_from(run / "adapter"))
    asked = choice_questions(prepared(tmp_path / "again", model, questions), load_tokenizer(model))
    right = sum(int(exact_logits(left.causal_lm, one).argmax()) == one.right for one in asked)
    assert found[-1].right == right


def test_a_run_that_asks_goes_on_bit_for_bit(
    tmp_path: Path, model: Path, questions: list[TokenizedRow]
) -> None:
    settings = {"lora__dropout": 0.2, "data__packing": False}
    unbroken, broken = (make_asking_run(tmp_path / name, model, questions, **settings) for name in "ab")
    whole = of_kind(events_of(unbroken), EvaluationFinished)
    before = of_kind(events_of(broken, Wish.PAUSE, after_step=2), EvaluationFinished)
    after = of_kind(events_of(broken), EvaluationFinished)
    assert_same_bits(broken, unbroken)
    assert [one.right for one in (*before, *after)] == [one.right for one in whole]


def test_a_file_that_is_no_multiple_choice_is_named_before_the_first_update(
    tmp_path: Path, model: Path, questions: list[TokenizedRow]
) -> None:
    other = mmlu_row(model, 9, "What is it?\nAnswer:", "two")
    events = events_of(make_asking_run(tmp_path, model, [*questions, other]))
    assert isinstance(events[-1], RunFailed)
    assert "/data/mmlu.json is no multiple choice" in events[-1].error.message
    assert losses(events) == []
