"""Out of memory: what is said of it, and a run that goes on with less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from qlora_studio.data.packing import collate
from qlora_studio.data.prepared import EncodedSample
from qlora_studio.engine.out_of_memory import out_of_memory as told
from qlora_studio.engine.out_of_memory import ways_in_words
from qlora_studio.engine.prepared_run import read_start
from qlora_studio.engine.update import Updater
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import ModelLoaded, StepFinished
from qlora_studio.runs.folder import open_run
from qlora_studio.runs.less_memory import (
    LESS_MEMORY_FILE,
    LessMemory,
    read_less_memory,
    write_less_memory,
)
from qlora_studio.runs.metrics_search import ran_out_of_memory
from qlora_studio.runs.run_state import RunState, read_state, write_state
from qlora_studio.runs.run_writer import RunWriter
from tests.engine.tiny import CPU, events_of, losses, make_model, make_rows, make_run, of_kind

IN_A_STEP = "qlora_studio.engine.update.Updater.update"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def out_of_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total")


def failed(run: Path, monkeypatch: pytest.MonkeyPatch, place: str, after_step: int = 2) -> Any:
    """The end of a run that made some steps, and then runs out of memory there."""
    events_of(run, Wish.PAUSE, after_step=after_step)
    with monkeypatch.context() as patched:
        patched.setattr(place, out_of_memory)
        return events_of(run)[-1]


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("place", "phase"),
    [
        (IN_A_STEP, "at step 4"),
        ("qlora_studio.engine.training.evaluate", "in the evaluation after step 4"),
        ("qlora_studio.engine.training.write_checkpoint", "while saving step 4"),
        ("qlora_studio.engine.samples.continue_greedily", "while replying to the prompts after step 3"),
        ("qlora_studio.engine.training.write_finished_adapter", "while writing the adapter"),
    ],
    ids=["step", "evaluation", "save", "samples", "adapter"],
)
def test_the_phase_is_named(  # R14
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, place: str, phase: str
) -> None:
    sample = EncodedSample(prompt="a", ids=(1, 2, 3), max_tokens=2)
    run = make_run(tmp_path, model, samples=(sample,), training__steps=5)
    end = failed(run, monkeypatch, place, after_step=3)
    assert end.cause == "out_of_memory"
    assert f"ran out of memory {phase}" in end.error.message


def test_a_step_names_its_parts_and_the_longest_rows_of_its_largest_batch(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, training__steps=4)
    lengths = [len(row.ids) for row in make_rows(24)]
    unbroken = of_kind(events_of(make_run(tmp_path, model, training__steps=4)), StepFinished)

    message = failed(run, monkeypatch, IN_A_STEP).error.message

    assert "Held were weights " in message
    assert "adapter 0.00, optimizer 0.00, and for the computation " in message
    row, tokens = message.partition("training rows ")[2].split(" tokens)")[0].split(" (")
    assert int(row) - 1 in unbroken[2].rows
    assert lengths[int(row) - 1] == int(tokens)


def test_an_evaluation_names_no_rows_of_a_step(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, training__steps=4)
    message = failed(run, monkeypatch, "qlora_studio.engine.training.evaluate").error.message
    assert "Held were weights " in message
    assert "training row" not in message


def test_a_run_that_goes_on_recomputes_all_layers_and_learns_the_same_bits(  # R3, R14
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = events_of(make_run(tmp_path, model, training__steps=4))
    run = make_run(tmp_path, model, training__steps=4)
    before = (run / "run.json").read_bytes()
    assert not ran_out_of_memory(run)

    end = failed(run, monkeypatch, IN_A_STEP)
    assert "Resume it with all layers recomputed (slower, the same result)" in end.error.hint
    assert ran_out_of_memory(run)
    events = events_of(run)

    assert any("All layers are recomputed" in note for note in of_kind(events, ModelLoaded)[0].notes)
    assert events[-1].state == "finished"
    losses = [step.loss for step in of_kind(unbroken, StepFinished)]
    assert [step.loss for step in of_kind(events, StepFinished)] == losses[2:]
    assert (run / "run.json").read_bytes() == before


def batches(run: Path) -> list[tuple[int, ...]]:
    """Rows of each update of an unbroken run."""
    return [step.rows for step in of_kind(events_of(run), StepFinished)]


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "one by one"])
def test_half_the_rows_at_once_learn_the_same(  # R14
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    settings = {"training__steps": 5, "training__batch_size": 3, "data__packing": packing}
    unbroken = of_kind(events_of(make_run(tmp_path, model, **settings)), StepFinished)
    run = make_run(tmp_path, model, **settings)
    before = (run / "run.json").read_bytes()
    assert "half_rows" in failed(run, monkeypatch, IN_A_STEP).ways

    at_once: list[int] = []

    def counted(micro_batch: Any, *rest: Any, **more: Any) -> Any:
        at_once.append(len(micro_batch))
        return collate(micro_batch, *rest, **more)

    monkeypatch.setattr("qlora_studio.engine.prepared_run.collate", counted)
    events = events_of(run, ways=("half_rows",))

    assert max(at_once) == 2
    steps = of_kind(events, StepFinished)
    assert [step.rows for step in steps] == [step.rows for step in unbroken[2:]]
    assert losses(steps) == pytest.approx(losses(unbroken[2:]), rel=1e-5)
    assert (run / "run.json").read_bytes() == before  # R6
    assert read_less_memory(run) == LessMemory(rows_at_once=2)
    assert any("2 rows at once instead of 3" in note for note in of_kind(events, ModelLoaded)[0].notes)


def test_a_run_goes_on_without_the_rows_that_took_most(  # R14
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"data__packing": False, "training__epochs": 2.0, "training__batch_size": 1}
    settings |= {"training__gradient_accumulation": 1}
    rows = make_rows(6)
    rows[4] = replace(rows[4], ids=np.full(31, 5, np.int32), weights=np.ones(31, np.float32), row=40)
    unbroken = batches(make_run(tmp_path, model, rows, **settings))
    run = make_run(tmp_path, model, rows, **settings)
    at = unbroken.index((40,))

    end = failed(run, monkeypatch, IN_A_STEP, after_step=at)
    assert (at > 0, end.rows) == (True, (40,))
    assert "without training row 41." in end.error.hint
    assert open_run(run).state.rows == end.rows
    events = events_of(run, ways=("without_rows",))

    computed = [step.rows for step in of_kind(events, StepFinished)]
    kept = [update for update in unbroken if update != (40,)]
    assert computed[: len(kept) - at] == kept[at:]
    assert (40,) not in computed
    assert (events[-1].state, events[-1].step) == ("finished", len(unbroken))


def test_right_after_an_update_that_is_passed_over_the_rows_in_hand_are_named(  # R14
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"data__packing": False, "training__epochs": 1.0, "training__batch_size": 1}
    settings |= {"training__gradient_accumulation": 1}
    rows = make_rows(8)
    order = batches(make_run(tmp_path, model, rows, **settings))
    run = make_run(tmp_path, model, rows, **settings)
    at = failed(run, monkeypatch, IN_A_STEP).step

    write_less_memory(run, LessMemory(left_out=order[at]))
    with monkeypatch.context() as patched:
        patched.setattr(IN_A_STEP, out_of_memory)
        again = events_of(run)[-1]
    assert (again.step, again.rows) == (at, order[at + 1])
    assert f"training row {order[at + 1][0] + 1} (" in again.error.message

    computed = [step.rows for step in of_kind(events_of(run, ways=("without_rows",)), StepFinished)]
    assert computed[: len(order) - at - 2] == order[at + 2 :]


def test_what_a_run_does_to_take_less_is_in_its_checkpoints_too(  # R3
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, training__steps=6)
    failed(run, monkeypatch, IN_A_STEP)
    events_of(run, Wish.PAUSE, after_step=1, ways=("half_rows",))
    (run / LESS_MEMORY_FILE).unlink()

    events_of(run)

    assert read_less_memory(run) == LessMemory(recompute_all=True, rows_at_once=1)


def test_rows_are_offered_to_be_left_out_only_where_that_takes_less(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = [replace(make_rows(1)[0], row=place) for place in range(12)]
    run = make_run(tmp_path, model, alike, data__packing=False, training__batch_size=1)
    update, calls = Updater.update, iter(range(3))

    def fails_at_last(*given: Any) -> Any:
        return update(*given) if next(calls) < 2 else out_of_memory()

    monkeypatch.setattr(IN_A_STEP, fails_at_last)
    end = events_of(run)[-1]

    assert (end.step, end.rows, "without_rows" in end.ways) == (2, (), False)


@pytest.mark.parametrize(
    ("numbers", "left_out"),
    [((5, 5, 5, 5), ()), ((5, 5, 6, 6), (6,))],
    ids=["pieces of one text", "others left out before"],
)
def test_rows_that_are_all_there_are_are_not_offered_to_be_left_out(  # R14
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    numbers: tuple[int, ...],
    left_out: tuple[int, ...],
) -> None:
    pieces = [replace(row, row=number) for row, number in zip(make_rows(4), numbers, strict=True)]
    run = make_run(tmp_path, model, pieces, data__packing=False, training__batch_size=1)
    if left_out:
        write_less_memory(run, LessMemory(left_out=left_out))
    monkeypatch.setattr(IN_A_STEP, out_of_memory)

    end = events_of(run)[-1]

    assert "Its largest batch was training row 6 (" in end.error.message
    assert (end.rows, "without_rows" in end.ways) == ((), False)


def test_a_way_that_leaves_no_row_is_refused_and_the_run_can_still_go_on(  # R3, R14
    tmp_path: Path, model: Path
) -> None:
    run = make_run(tmp_path, model, make_rows(4), training__steps=2)
    state = RunState(state="failed", step=0, cause="out_of_memory", ways=("without_rows",), rows=(0, 1, 2, 3))
    write_state(run, state)

    assert "Every row is left out" in events_of(run, ways=("without_rows",))[-1].error.message
    assert read_less_memory(run) is None
    assert events_of(run)[-1].state == "finished"


def test_a_way_is_taken_once_where_the_sitting_is_killed_before_it_starts(  # R3, R14
    tmp_path: Path, model: Path
) -> None:
    run = make_run(tmp_path, model, training__batch_size=4)
    ways = ("recompute", "half_rows", "without_rows")
    state = RunState(
        state="failed", step=0, cause="out_of_memory", ways=ways, rows=(3,), hint="Resume it so."
    )
    write_state(run, state)

    with RunWriter(run) as writer:  # all that is left of a sitting that ends while it loads the model
        read_start(writer, CPU, ("half_rows",))

    left = read_state(run).state
    assert left == msgspec.structs.replace(state, ways=(), rows=(), hint="")
    with RunWriter(run) as writer:
        assert read_start(writer, CPU).less == LessMemory(rows_at_once=2)


def test_a_run_without_any_row_is_refused(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path, model, make_rows(4))
    write_less_memory(run, LessMemory(left_out=(0, 1, 2, 3)))
    end = events_of(run)[-1]
    assert "Every row is left out" in end.error.message


def test_a_run_that_recomputes_all_layers_already_promises_no_more_of_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, training__steps=4, training__recompute="all")
    end = failed(run, monkeypatch, IN_A_STEP)
    assert "recompute" not in end.ways
    assert end.error.hint.startswith("Resume it with 1 row at once (each update has the same rows)")
    assert "recompute" not in end.error.hint


def test_what_is_kept_dequantized_goes_with_it() -> None:
    said = [ways_in_words(("recompute",), 1, (), keeps_dequantized=kept) for kept in (True, False)]
    assert said == [
        "with all layers recomputed and no weights kept dequantized (slower, the same result)",
        "with all layers recomputed (slower, the same result)",
    ]


def test_a_device_that_can_not_be_asked_is_still_out_of_memory(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, training__steps=4)
    monkeypatch.setattr("qlora_studio.engine.autopsy._held", lambda run: raise_lost())
    end = failed(run, monkeypatch, IN_A_STEP)
    assert end.cause == "out_of_memory"
    assert "Held" not in end.error.message


def raise_lost() -> str:
    raise RuntimeError("CUDA error: device lost")


@pytest.mark.parametrize("content", [None, b"", b"\0\xff", b'{"type":"run_failed","cause":"error"}\n'])
def test_a_run_without_such_a_failure_goes_on_as_it_was(tmp_path: Path, content: bytes | None) -> None:
    [(tmp_path / "metrics.jsonl").write_bytes(text) for text in (content,) if text is not None]
    assert not ran_out_of_memory(tmp_path)


@pytest.mark.parametrize(
    ("of_torch", "free_gib", "said"),
    [
        ("", 0.25, ": 0.50 GiB more were needed, 0.25 GiB are free."),
        (
            "4.64 GiB allowed; ",
            73.43,
            ": 0.50 GiB more were needed, and this program may take no more than 4.64 GiB of it.",
        ),
        ("4.64 GiB allowed; ", 0.25, ": 0.50 GiB more were needed, 0.25 GiB are free."),
        ("", 0.75, ": 0.50 GiB more were needed in one piece; by now 0.75 GiB are free."),
    ],
    ids=["a full card", "a limit", "a limit on a full card", "fragments, or given back since"],
)
def test_no_more_is_called_free_than_could_be_taken(of_torch: str, free_gib: float, said: str) -> None:
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which "
        f"{free_gib} GiB is free. Including non-PyTorch memory, this process has 5.20 GiB memory in use. "
        f"{of_torch}Of the allocated memory 4.01 GiB is allocated by PyTorch, and 120.00 MiB is reserved."
    )
    card: Any = SimpleNamespace(is_cuda=True, name="A card", free_bytes=lambda: int(free_gib * 2**30))
    assert told(error, "at step 5", card, None).message == f"A card ran out of memory at step 5{said}"
