"""What goes wrong in a run is a result of it: told, noted in its folder, and the next one works."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_studio.config.run_config import HOST
from qlora_studio.engine import out_of_memory
from qlora_studio.engine.adapters import decoder_layers
from qlora_studio.engine.device import Device
from qlora_studio.engine.layer_setup import LayerSetup, set_layers_up
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.pinned_memory import PinnedMemoryError, in_ram
from qlora_studio.engine.wish import Wish
from qlora_studio.memory.devices import RamReading
from qlora_studio.protocol.events import ModelLoaded, RunFailed, StepFinished
from qlora_studio.runs.checkpoints import checkpoints
from qlora_studio.runs.metrics import read_metrics
from qlora_studio.runs.run_state import RunState, read_state
from tests.engine.tiny import CPU, events_of, make_model, make_run, of_kind

LOSS = "qlora_studio.engine.objective.learned_loss"
UPDATE = "qlora_studio.engine.update.Updater.update"
WRITE = "qlora_studio.engine.training.write_checkpoint"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def state_of(run: Path) -> RunState:
    state = read_state(run).state
    assert state is not None
    return state


def real(place: str) -> Callable[..., Any]:
    """What stands at a place that a test replaces."""
    module, _, name = place.rpartition(".")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def raising(error: Exception) -> Callable[..., Any]:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    return fails


def losses_times(factor_after: Callable[[int], float], run: Path) -> Callable[..., Any]:
    """The true loss, times a factor that depends on the updates made so far."""
    loss = real(LOSS)
    return lambda *inputs: loss(*inputs) * factor_after(len(read_metrics(run / "metrics.jsonl")))


@pytest.mark.fault(19)
def test_losses_that_are_no_numbers_make_no_update_and_the_third_ends_the_run(  # R12
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, training__steps=20, validation=[])
    monkeypatch.setattr(LOSS, losses_times(lambda made: torch.nan if made >= 2 else 1, run))

    events = events_of(run)

    steps = of_kind(events, StepFinished)
    assert [step.non_finite for step in steps[-3:]] == ["nan"] * 3
    assert [step.loss for step in steps[-3:]] == [None] * 3
    failed = events[-1]
    assert (failed.cause, failed.step) == ("non_finite", steps[-1].step)
    assert "lower learning rate" in failed.error.hint
    assert not (run / "adapter").exists()
    assert state_of(run).cause == "non_finite"


@pytest.mark.fault(19)
def test_a_single_loss_that_is_no_number_is_passed_over(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, training__steps=4, validation=[])
    monkeypatch.setattr(LOSS, losses_times(lambda made: torch.inf if made == 1 else 1, run))

    steps = of_kind(events_of(run), StepFinished)

    assert [step.non_finite for step in steps] == [None, "inf", None, None]


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of"
        ),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2684354560 bytes."),
    ],
    ids=["on a card", "on a processor"],
)
def test_running_out_of_memory_is_a_result_and_the_next_run_works(  # R14
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    holder = ModelHolder(CPU)
    run = make_run(tmp_path, model, training__steps=4)
    with monkeypatch.context() as patched:
        patched.setattr(UPDATE, raising(error))
        failed = events_of(run, holder=holder)[-1]

    assert (failed.cause, failed.step) == ("out_of_memory", 0)
    assert "2.50 GiB more were needed" in failed.error.message
    assert "at step 1" in failed.error.message
    assert "all layers recomputed" in failed.error.hint
    assert events_of(run, holder=holder)[-1].state == "finished"


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later."),
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
    ],
    ids=["as a runtime error", "as an accelerator's"],
)
def test_a_card_that_fails_is_named_as_that_and_the_run_goes_on_later(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = make_run(tmp_path, model, training__steps=4)
    with monkeypatch.context() as patched:
        patched.setattr(UPDATE, raising(error))
        patched.setattr(Device, "free_bytes", raising(error))  # nothing of it answers any more
        failed = events_of(run)[-1]

    assert (failed.cause, state_of(run).cause) == ("device", "device")
    assert failed.error.message.endswith("failed at step 1: CUDA error: unspecified launch failure.")
    assert events_of(run)[-1].state == "finished"


def test_memory_that_the_driver_lacks_is_no_card_that_failed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, training__steps=4)
    with monkeypatch.context() as patched:
        patched.setattr(UPDATE, raising(torch.AcceleratorError("CUDA error: out of memory")))
        failed = events_of(run)[-1]

    assert (failed.cause, state_of(run).cause) == ("out_of_memory", "out_of_memory")
    assert "ran out of memory at step 1" in failed.error.message
    assert events_of(run)[-1].state == "finished"


@pytest.mark.parametrize(
    ("free_gib", "said"),
    [(1, ", 1.00 GiB are free."), (9, ", and the system gave none, though 9.00 GiB are free.")],
)
def test_where_ram_lacks_for_a_card_it_is_called_ram(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, free_gib: int, said: str
) -> None:
    run = make_run(tmp_path, model, training__steps=4, training__recompute=HOST, training__batch_size=4)
    ram = RamReading(total_bytes=2**34, free_bytes=free_gib * 2**30, load=0.0)
    with monkeypatch.context() as patched:
        patched.setattr(out_of_memory, "ram_reading", lambda: ram)
        patched.setattr(UPDATE, raising(PinnedMemoryError(2 * 2**30)))
        failed = events_of(run)[-1]

    message = (
        "The machine ran out of RAM at step 1: 2.00 GiB more were needed for the card to copy from and to"
    )
    assert failed.error.message.startswith(message + said)
    assert failed.cause == "out_of_memory"
    assert "with 2 rows at once" in failed.error.hint
    assert "recompute all layers with their inputs on the card" in failed.error.hint
    assert "Held were" not in failed.error.message  # on the card
    assert failed.ways == ("half_rows", "without_rows")
    assert events_of(run)[-1].state == "finished"


LAYERS = "qlora_studio.engine.prepared_run.set_layers_up"


@pytest.mark.parametrize(("recompute", "kept"), [("none", False), (HOST, True)])
def test_where_ram_lacks_nothing_is_offered_that_takes_less_of_the_card_alone(  # R14
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, recompute: str, kept: bool
) -> None:
    run = make_run(tmp_path, model, training__steps=4, training__recompute=recompute)

    def kept_as_on_a_card(*given: Any) -> LayerSetup:
        return replace(set_layers_up(*given), keeps_dequantized=kept)

    with monkeypatch.context() as patched:
        patched.setattr(LAYERS, kept_as_on_a_card)
        patched.setattr(UPDATE, raising(PinnedMemoryError(2 * 2**30)))
        failed = events_of(run)[-1]

    assert failed.ways == ("half_rows", "without_rows")


KEPT: dict[str, Any] = {"training__keep_dequantized": True, "model__compute_dtype": "bfloat16"}


def test_where_memory_lacks_for_weights_that_stay_dequantized_the_run_goes_on_without(  # R14
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, device="cuda", training__steps=2, **KEPT)
    with monkeypatch.context() as patched:
        patched.setattr(LAYERS, raising(torch.OutOfMemoryError("CUDA out of memory.")))
        failed = events_of(run)[-1]

    assert "ran out of memory while preparing the run" in failed.error.message
    assert failed.error.hint.startswith(
        "Resume it with all layers recomputed and no weights kept dequantized"
    )
    assert failed.ways == state_of(run).ways == ("recompute",)
    events = events_of(run)
    (said,) = (note for note in of_kind(events, ModelLoaded)[0].notes if "dequantized" in note)
    assert said.startswith("All layers are recomputed, and weights aren't kept dequantized,")
    assert events[-1].state == "finished"


def test_a_resumed_run_that_fails_while_it_is_prepared_tells_where_it_stood(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, model, training__steps=4)
    events_of(run, Wish.PAUSE, after_step=2)
    monkeypatch.setattr(LAYERS, raising(RuntimeError("odd")))
    assert events_of(run)[-1].step == state_of(run).step == 2


@pytest.mark.parametrize("place", [LAYERS, UPDATE, WRITE, ""])
def test_however_a_run_ends_no_weights_of_the_held_model_stay_dequantized(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    asked: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        "qlora_studio.engine.training_job.keep_dequantized",
        lambda layers, wanted: asked.append((len(layers), wanted)),
    )
    if place:
        monkeypatch.setattr(place, raising(torch.OutOfMemoryError("CUDA out of memory.")))
    holder = ModelHolder(CPU)
    events_of(make_run(tmp_path, model, training__steps=2, **KEPT), holder=holder)
    assert holder.held is not None
    assert asked == [(len(decoder_layers(holder.held.causal_lm)), False)]


@pytest.mark.parametrize(
    ("error", "settings"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), {}),
        (torch.OutOfMemoryError("CUDA out of memory."), KEPT | {"training__compile": "off"}),
        (PinnedMemoryError(2**30), KEPT),
    ],
    ids=["not asked for", "not kept", "RAM"],
)
def test_what_would_not_help_in_preparing_is_not_offered(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    settings: dict[str, Any],
) -> None:
    run = make_run(tmp_path, model, device="cuda", **settings)
    monkeypatch.setattr(LAYERS, raising(error))
    assert events_of(run)[-1].ways == ()


def test_memory_that_can_not_be_pinned_is_no_want_of_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", raising(torch.AcceleratorError("CUDA error: out of memory")))
    with pytest.raises(PinnedMemoryError) as told:
        in_ram((4, 2048, 4096), torch.bfloat16, pinned=True)
    assert told.value.needed_bytes == 64 * 2**20

    monkeypatch.setattr(torch, "empty", raising(torch.AcceleratorError("CUDA error: unknown error")))
    with pytest.raises(torch.AcceleratorError):
        in_ram((4,), torch.bfloat16, pinned=True)


def test_a_bug_ends_the_run_in_words_and_the_engine_lives_on(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UPDATE, raising(KeyError("x")))

    failed = events_of(make_run(tmp_path, model))[-1]

    assert isinstance(failed, RunFailed)
    assert failed.error.message == "A bug of ours ended the run at step 1: KeyError: 'x'"


@pytest.mark.fault(9)
def test_a_full_disk_pauses_the_run_and_the_older_checkpoints_stay(  # R9
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = real(WRITE)

    def fails_at_four(folder: Path, *rest: Any) -> None:
        write(folder, *rest)
        if "000004" in folder.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(WRITE, fails_at_four)
    run = make_run(tmp_path, model, training__steps=8)

    failed = events_of(run)[-1]

    assert failed.cause == "disk"
    assert [(info.step, info.sound) for info in checkpoints(run, verify=True)] == [(2, True)]
    assert state_of(run).state == "paused"
    monkeypatch.setattr(WRITE, write)
    assert events_of(run)[-1].state == "finished"


@pytest.mark.fault(9)
@pytest.mark.parametrize("told", [("triton/kernel.json",), ()], ids=["file told", "no file told"])
def test_a_disk_too_full_for_a_compiled_kernel_pauses_the_run(  # R9
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, told: tuple[str, ...]
) -> None:
    run = make_run(tmp_path, model, training__steps=2)
    compiled = tmp_path / "compiled"
    files = [str(compiled / name) for name in told]
    with monkeypatch.context() as patched:
        patched.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiled))
        patched.setattr(UPDATE, raising(OSError(28, "No space left on device", *files)))
        failed = events_of(run)[-1]

    assert (failed.cause, state_of(run).state) == ("disk", "paused")
    place = compiled / "triton" if told else tmp_path
    assert failed.error.message == (
        f"Could not save a compiled kernel: there is no room left on the disk of {place}."
    )
    assert events_of(run)[-1].state == "finished"
