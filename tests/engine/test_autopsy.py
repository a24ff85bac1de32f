"""Out of memory: what is said of it, and a run that goes on with less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_studio.data.prepared import EncodedSample
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import ModelLoaded, StepFinished
from qlora_studio.runs.metrics_search import ran_out_of_memory
from tests.engine.tiny import events_of, make_model, make_rows, make_run, of_kind

IN_A_STEP = "qlora_studio.engine.update.learned_loss"


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
    assert "Resume it to recompute all layers" in end.error.hint
    assert ran_out_of_memory(run)
    events = events_of(run)

    assert any("All layers are recomputed" in note for note in of_kind(events, ModelLoaded)[0].notes)
    assert events[-1].state == "finished"
    losses = [step.loss for step in of_kind(unbroken, StepFinished)]
    assert [step.loss for step in of_kind(events, StepFinished)] == losses[2:]
    assert (run / "run.json").read_bytes() == before


def test_a_run_that_recomputes_all_layers_already_promises_no_more_of_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, training__steps=4, training__recompute="all")
    end = failed(run, monkeypatch, IN_A_STEP)
    assert "Resume" not in end.error.hint
    assert end.error.hint.startswith("In a new run try")


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
