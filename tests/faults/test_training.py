"""Faults of a run in training, over a tiny real model: killed, stopped, out of memory, its folder gone."""

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.training_job import run_training
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import RunFailed, RunFinished, StepFinished
from qlora_studio.runs.checkpoints import checkpoints, newest_sound
from qlora_studio.runs.metrics import read_metrics
from tests.engine.tiny import CPU, events_of, make_model, make_run, of_kind
from tests.faults.disk import disk

SETTINGS: dict[str, Any] = {"training__steps": 6, "lora__dropout": 0.2, "training__schedule": "cosine"}
EVERY = 2  # updates between two checkpoints


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def unbroken(tmp_path: Path, model: Path) -> Path:
    run = make_run(tmp_path, model, **SETTINGS)
    events_of(run)
    return run


def assert_equal_runs(run: Path, other: Path) -> None:
    assert (
        read_metrics(run / "metrics.jsonl").loss.tolist()
        == read_metrics(other / "metrics.jsonl").loss.tolist()
    )
    weights = "adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (other / weights).read_bytes()


@pytest.mark.fault(6)
@pytest.mark.slow
def test_stop_at_any_moment_leaves_a_sound_newest_checkpoint(  # R3, R4
    tmp_path: Path, model: Path, unbroken: Path
) -> None:
    holder = ModelHolder(CPU)
    moments = len(events_of(make_run(tmp_path, model, **SETTINGS), holder=holder))
    for moment in range(moments):
        run = make_run(tmp_path, model, **SETTINGS)
        events: list[Any] = []
        for event in run_training(run, holder, stop_from(moment, events)):
            events.append(event)
        assert isinstance(events[-1], RunFinished), events[-1]
        made = of_kind(events, StepFinished)
        saved = newest_sound(run)
        assert (saved.step if saved else 0) == (made[-1].step if made else 0)
        events_of(run, holder=holder)
        assert_equal_runs(run, unbroken)
    assert moments > 15


def stop_from(moment: int, events: list[Any]) -> Callable[[], Wish]:
    """Asks to stop once so many events have been told."""
    return lambda: Wish.STOP if len(events) >= moment else Wish.NOTHING


@pytest.mark.fault(1)
@pytest.mark.slow
def test_twelve_random_kills_lose_no_more_than_an_interval(  # R1, R3, R4
    tmp_path: Path, model: Path, unbroken: Path
) -> None:
    kill_at_random(lambda: make_run(tmp_path, model, **SETTINGS), unbroken, kills=12)


@pytest.mark.fault(1)
@pytest.mark.slow_fault
@pytest.mark.timeout(1800)
def test_a_hundred_random_kills_lose_no_more_than_an_interval(tmp_path: Path, model: Path) -> None:
    long = {**SETTINGS, "training__steps": 120}
    unbroken = make_run(tmp_path, model, **long)
    events_of(unbroken)
    kill_at_random(lambda: make_run(tmp_path, model, **long), unbroken, kills=100)


def kill_at_random(new_run: Callable[[], Path], unbroken: Path, kills: int) -> None:
    """Trains in children that are killed, then to the end. A run done earlier gives way to another."""
    chance = random.Random(7)
    run, killed = new_run(), 0
    while killed < kills:
        child = multiprocessing.get_context("fork").Process(target=_train_to_the_end, args=(run,))
        child.start()
        child.join(chance.uniform(0.05, 1.2))
        child.kill()
        child.join()
        if child.exitcode == 0:
            assert_equal_runs(run, unbroken)
            run = new_run()
            continue
        assert child.exitcode == -signal.SIGKILL
        killed += 1
        saved = checkpoints(run, verify=True)
        made = read_metrics(run / "metrics.jsonl").steps.tolist()
        assert all(info.sound for info in saved)
        assert max(made, default=0) - max((info.step for info in saved), default=0) <= EVERY
    _train_to_the_end(run)
    assert_equal_runs(run, unbroken)


def _train_to_the_end(run: Path) -> None:
    torch.set_num_threads(1)
    events_of(run)


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    "place",
    [
        "qlora_studio.engine.model_holder.load_base",
        "qlora_studio.engine.training.evaluate",
        "qlora_studio.engine.training.write_checkpoint",
    ],
    ids=["loading", "evaluation", "save"],
)
def test_out_of_memory_anywhere_is_a_result_and_the_next_run_works(  # R14
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    holder = ModelHolder(CPU)
    run = make_run(tmp_path, model, **SETTINGS)
    events_of(run, Wish.PAUSE, after_step=3)
    before = [info.step for info in checkpoints(run, verify=True) if info.sound]

    with monkeypatch.context() as patched:
        patched.setattr(place, _out_of_memory)
        failed = events_of(run, holder=holder)[-1]

    assert (failed.cause, "2.50 GiB more were needed" in failed.error.message) == ("out_of_memory", True)
    assert failed.error.hint
    assert [info.step for info in checkpoints(run, verify=True) if info.sound] == before
    assert events_of(run, holder=holder)[-1].state == "finished"


def _out_of_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total")


@pytest.mark.fault(21)
@pytest.mark.parametrize("fault", ["EROFS", "EACCES", "gone"])
def test_a_folder_that_can_no_longer_be_written_to_ends_in_words(  # R10, R16
    tmp_path: Path, model: Path, fault: str
) -> None:
    run = make_run(tmp_path, model, **SETTINGS)
    with disk(64, fault) as faulty:  # a line of the metrics
        failed = events_of(run)[-1]

    assert faulty.fired
    assert isinstance(failed, RunFailed)
    assert failed.cause != "died"
    assert "bug" not in failed.error.message
    assert str(run) in failed.error.message
    assert events_of(run)[-1].state == "finished"


@pytest.mark.fault(21)
def test_a_folder_that_goes_away_in_training_is_named_and_nothing_takes_its_place(  # R11, R16
    tmp_path: Path, model: Path, unbroken: Path
) -> None:
    run = make_run(tmp_path, model, **SETTINGS)
    away = tmp_path / "another disk"
    events: list[Any] = []
    for event in run_training(run, ModelHolder(CPU), lambda: Wish.NOTHING):
        events.append(event)
        if isinstance(event, StepFinished) and event.step == 3:
            run.rename(away)

    assert isinstance(events[-1], RunFailed)
    assert str(run) in events[-1].error.message
    assert not run.exists()
    shutil.move(away, run)
    assert events_of(run)[-1].state == "finished"
    assert_equal_runs(run, unbroken)


@pytest.mark.fault(15)
@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_jumps_by_years_changes_no_order_and_no_duration(  # R13
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Path, years: int
) -> None:
    run = make_run(tmp_path, model, **SETTINGS)
    events_of(run, Wish.PAUSE, after_step=3)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + years * 365 * 86_400)

    events_of(run)

    metrics = read_metrics(run / "metrics.jsonl")
    assert metrics.steps.tolist() == list(range(1, 7))
    assert metrics.elapsed_s.tolist() == sorted(metrics.elapsed_s.tolist())
    assert metrics.elapsed_s[-1] < 3600
    assert_equal_runs(run, unbroken)
