"""Batches of the next update, made beside a card that computes: a processor stands in for it."""

from __future__ import annotations

import gc
import itertools
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_studio.data.packing import MicroBatch, Update
from qlora_studio.engine import training_job
from qlora_studio.engine.batches_ahead import BatchesAhead, UpdateBatches
from qlora_studio.engine.prepared_run import PreparedRun
from qlora_studio.engine.ranks import Ranks
from qlora_studio.engine.update import Updater
from qlora_studio.engine.wish import Wish
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import EvaluationFinished, StepFinished
from qlora_studio.runs.less_memory import LessMemory, write_less_memory
from tests.engine.tiny import events_of, losses, make_model, make_rows, make_run, of_kind

FIRST, SECOND, THIRD = (Update((((row,),), ((row + 1,),))) for row in (0, 2, 4))
ALONE = Ranks(0, 1)
ONE_BY_ONE = {
    "data__packing": False,
    "training__batch_size": 1,
    "training__gradient_accumulation": 1,
    "checkpoints__evaluate_every_steps": 0,
}


class Maker:
    """made: micro-batches in order. breaks: those that can't be"""

    def __init__(self, *breaks: MicroBatch, ranks: Ranks = ALONE, looks_ahead: bool = True) -> None:
        self.made: list[Any] = []
        self.put: list[Any] = []
        self.breaks = breaks
        self.ahead = BatchesAhead(self._collate, self._put, ranks, looks_ahead=looks_ahead)

    def _collate(self, micro_batch: MicroBatch) -> Any:
        if micro_batch in self.breaks:
            raise StudioError(f"no {micro_batch}")
        self.made.append(micro_batch)
        return micro_batch

    def _put(self, batch: Any) -> Any:
        self.put.append(batch)
        return batch


def test_what_was_prepared_is_not_made_again() -> None:
    maker = Maker()
    maker.ahead.prepare(SECOND)
    maker.ahead.prepare(SECOND)  # an update that is repeated, as float16 overflowed
    assert list(maker.ahead.of(SECOND).every) == maker.made == list(SECOND.micro_batches)
    maker.ahead.of(SECOND)
    assert len(maker.made) == 4  # it is given once


def test_what_was_prepared_and_is_not_asked_for_is_thrown_away() -> None:
    maker = Maker()
    maker.ahead.prepare(SECOND)
    assert list(maker.ahead.of(THIRD).every) == list(THIRD.micro_batches)
    maker.ahead.of(SECOND)
    assert maker.made == [*SECOND.micro_batches, *THIRD.micro_batches, *SECOND.micro_batches]


def test_what_can_not_be_made_breaks_the_update_it_belongs_to() -> None:
    maker = Maker(SECOND.micro_batches[1])
    maker.ahead.of(FIRST)
    maker.ahead.prepare(SECOND)
    with pytest.raises(StudioError):
        maker.ahead.of(SECOND)
    maker.breaks = ()
    assert list(maker.ahead.of(SECOND).every) == list(SECOND.micro_batches)


def test_nothing_is_prepared_where_nothing_works_meanwhile_or_nothing_follows() -> None:
    maker = Maker(looks_ahead=False)
    maker.ahead.prepare(SECOND)
    assert not maker.made
    maker = Maker()
    maker.ahead.prepare(None)
    assert not maker.made


def test_of_several_processes_each_puts_its_share_on_its_device() -> None:
    maker = Maker(ranks=Ranks(1, 2))
    maker.ahead.prepare(SECOND)
    found = maker.ahead.of(SECOND)
    assert list(found.every) == list(SECOND.micro_batches)
    assert list(found.ours) == maker.put == [SECOND.micro_batches[1]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreparedRun, "computes_beside_python", True)


def order_of(run: Path, monkeypatch: pytest.MonkeyPatch, **sitting: Any) -> tuple[list[str], list[Any]]:
    """Letters: a (m)icro-batch is made, a step is (t)old; and the events."""
    order: list[str] = []
    collate = PreparedRun.collate_training
    with monkeypatch.context() as patched:
        patched.setattr(
            PreparedRun, "collate_training", lambda *given: (order.append("m"), collate(*given))[1]
        )
        patched.setattr(
            "qlora_studio.engine.training.StepFinished",
            lambda **named: (order.append("t"), StepFinished(**named))[1],
        )
        return order, events_of(run, **sitting)


@pytest.mark.parametrize(
    ("steps", "expected"), [(0, "mmtmtt" * 2), (5, "mmtmtt" + "mmtt")], ids=["two passes", "so many steps"]
)
def test_batches_are_made_one_update_ahead_within_a_pass(
    tmp_path: Path,
    model: Path,
    as_on_a_card: None,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    expected: str,
) -> None:
    run = make_run(tmp_path, model, make_rows(3), training__epochs=2.0, training__steps=steps, **ONE_BY_ONE)
    order, _ = order_of(run, monkeypatch)
    assert "".join(order) == expected


def test_on_a_processor_batches_are_made_at_their_step(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, make_rows(3), training__epochs=1.0, **ONE_BY_ONE)
    order, _ = order_of(run, monkeypatch)
    assert "".join(order) == "mtmtmt"


def test_an_update_without_rows_is_passed_over_ahead_too(
    tmp_path: Path, model: Path, as_on_a_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**ONE_BY_ONE, "training__epochs": 1.0}
    whole, run = (make_run(tmp_path, model, make_rows(6), **settings) for _ in range(2))
    rows = [step.rows for step in of_kind(events_of(whole), StepFinished)]
    write_less_memory(run, LessMemory(left_out=(*rows[1], *rows[2])))

    order, events = order_of(run, monkeypatch)

    assert "".join(order) == "mmtmtmtt" + "mmtt"  # and two of the next pass
    found = [step.rows for step in of_kind(events, StepFinished)]
    assert found[:4] == [rows[0], *rows[3:]]


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "one by one"])
def test_a_run_that_looks_ahead_learns_the_same_bits(  # R3
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    """Over ends of passes, evaluations, checkpoints and a pause."""
    settings = {"training__epochs": 3.0, "data__packing": packing}

    def told() -> tuple[list[float], list[Any], list[float | None], bytes]:
        run = make_run(tmp_path, model, **settings)
        events = events_of(run, Wish.PAUSE, after_step=4) + events_of(run)
        steps = of_kind(events, StepFinished)
        evaluations = [event.loss for event in of_kind(events, EvaluationFinished)]
        return (
            losses(events),
            [(step.rows, step.grad_norm, step.tokens, step.epoch) for step in steps],
            evaluations,
            (run / "adapter" / "adapter_model.safetensors").read_bytes(),
        )

    plain = told()
    monkeypatch.setattr(PreparedRun, "computes_beside_python", True)
    assert told() == plain


def test_where_the_next_batch_takes_more_memory_than_there_is_its_own_step_fails_and_names_its_rows(  # R14
    tmp_path: Path, model: Path, as_on_a_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**ONE_BY_ONE, "training__epochs": 1.0}
    unbroken, run = (make_run(tmp_path, model, make_rows(5), [], **settings) for _ in range(2))
    wanted = of_kind(events_of(unbroken), StepFinished)
    (row,) = wanted[2].rows
    put = PreparedRun.put

    def lacks(prepared: PreparedRun, batch: Any) -> Any:
        if batch.rows == (row,):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total")
        return put(prepared, batch)

    monkeypatch.setattr(PreparedRun, "put", lacks)
    events = events_of(run)

    assert losses(events) == losses(wanted[:2])
    end = events[-1]
    assert (end.cause, end.step) == ("out_of_memory", 2)
    assert "ran out of memory at step 3" in end.error.message
    assert f"Its largest batch was training row {row + 1} (" in end.error.message


def test_a_row_that_can_not_be_read_fails_at_its_own_step(
    tmp_path: Path, model: Path, as_on_a_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, make_rows(4), training__epochs=1.0, **ONE_BY_ONE)
    collate, calls = PreparedRun.collate_training, itertools.count(1)

    def breaks(*given: Any) -> Any:
        if next(calls) >= 3:
            raise StudioError("The row is broken.")
        return collate(*given)

    monkeypatch.setattr(PreparedRun, "collate_training", breaks)
    events = events_of(run)

    assert len(of_kind(events, StepFinished)) == 2
    assert (events[-1].step, events[-1].error.message) == (2, "The row is broken.")


@pytest.mark.parametrize("ends", ["stop", "error"])
def test_nothing_that_was_prepared_is_left_behind(
    tmp_path: Path, model: Path, as_on_a_card: None, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    made: list[weakref.ref[UpdateBatches]] = []
    make, update, calls = BatchesAhead._made, Updater.update, itertools.count(1)

    def note(ahead: BatchesAhead, planned: Update) -> UpdateBatches:
        batches = make(ahead, planned)
        made.append(weakref.ref(batches))
        return batches

    def ended(*given: Any) -> Any:
        result = update(*given)
        if ends == "error" and next(calls) == 2:
            raise RuntimeError("a bug")
        return result

    monkeypatch.setattr(BatchesAhead, "_made", note)
    monkeypatch.setattr(Updater, "update", ended)
    monkeypatch.setattr(training_job._log, "disabled", True)  # pytest keeps what is logged, with its frames
    run = make_run(tmp_path, model, training__epochs=2.0)
    events = events_of(run, Wish.STOP, after_step=2)

    assert len(made) == 3  # of one more than were made
    assert events[-1].step == (2 if ends == "stop" else 1)
    gc.collect()
    assert not any(reference() for reference in made)
