import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qlora_studio.config.run_config import HOST, LoraConfig, RunConfig, TrainingConfig
from qlora_studio.data.prepared import EncodedSample
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.engine import layer_setup, prepared_run, training_job, update
from qlora_studio.engine.compiled_layers import InFp8
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.hosted_inputs import HostedInputs
from qlora_studio.engine.layer_setup import recompute
from qlora_studio.engine.learning_rate import learning_rate
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.training_job import run_training
from qlora_studio.engine.wish import Wish
from qlora_studio.errors import StudioError
from qlora_studio.memory.measured import measured_dtype
from qlora_studio.memory.promise import Promise, promise
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol.events import (
    CheckpointSaved,
    EvaluationFinished,
    LoadingProgress,
    ModelLoaded,
    RunFinished,
    SampleReady,
    StepFinished,
)
from qlora_studio.protocol.lines import EVENTS
from qlora_studio.runs.checkpoints import checkpoints
from qlora_studio.runs.metrics import read_metrics
from qlora_studio.runs.run_state import read_state
from tests.engine.plain_stack import plain_loss, plain_tuned, save_fresh_adapter
from tests.engine.tiny import CPU, events_of, losses, make_model, make_rows, make_run, of_kind

NF4 = Storage("nf4", True, torch.float32)
SAMPLE = EncodedSample(prompt="A B", ids=(5, 6, 7), max_tokens=4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def trained_weights(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(run / "adapter" / "adapter_model.safetensors")
    return weights


def test_a_run_is_told_from_its_start_to_its_adapter(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path, model, samples=(SAMPLE,), training__steps=3)

    events = events_of(run)

    slow = "loading_progress", "evaluation_progress"  # told where it takes long
    told = [tag for event in events if (tag := event.__struct_config__.tag) not in slow]
    assert told == [
        *("model_loaded", "run_started", "evaluation_finished"),
        *(
            "step_finished",
            "step_finished",
            "evaluation_finished",
            "saving",
            "checkpoint_saved",
            "sample_ready",
        ),
        *("step_finished", "evaluation_finished", "saving", "checkpoint_saved", "sample_ready"),
        "run_finished",
    ]
    finished = events[-1]
    assert (finished.state, finished.step, finished.adapter) == ("finished", 3, str(run / "adapter"))
    assert finished.first_evaluation_loss == of_kind(events, EvaluationFinished)[0].loss
    assert (run / "adapter" / "tokenizer.json").is_file()


def test_after_three_steps_the_peak_is_kept_for_the_promise_of_the_next_run(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(training_job, "remember_peak", lambda *args, **said: kept.append(said | {"of": args}))

    events = events_of(make_run(tmp_path, model, training__steps=4))

    first_three = [step.memory for step in of_kind(events, StepFinished)[:3]]
    assert len(kept) == 1
    assert kept[0]["measured"] == max(first_three, key=lambda parts: sum(parts.values()))
    assert kept[0]["of"][2].training.recompute == 0
    assert kept[0]["device"] == "cpu"


@pytest.mark.parametrize(("asked", "kept"), [("auto", True), ("float32", False)])
def test_what_auto_was_is_kept_for_the_promise_of_the_next_run(
    tmp_path: Path, model: Path, asked: str, kept: bool
) -> None:
    events = events_of(make_run(tmp_path, model, training__steps=3, model__compute_dtype=asked))

    assert measured_dtype(CPU.name) == (of_kind(events, ModelLoaded)[0].compute_dtype if kept else "")


def test_a_run_of_two_steps_tells_nothing_of_its_peak(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[object] = []
    monkeypatch.setattr(training_job, "remember_peak", lambda *args, **said: kept.append(args))
    events_of(make_run(tmp_path, model, training__steps=2))
    assert kept == []


def test_the_run_folder_holds_the_very_lines_that_were_told(tmp_path: Path, model: Path) -> None:  # R5
    run = make_run(tmp_path, model, samples=(SAMPLE,), training__steps=3)

    events = events_of(run)

    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert lines == [EVENTS.encode(event) for event in events if event.__struct_config__.tag in _KEPT]
    samples = (run / "samples.jsonl").read_bytes().splitlines(keepends=True)
    assert samples == [EVENTS.encode(event) for event in of_kind(events, SampleReady)]
    assert read_metrics(run / "metrics.jsonl").loss.tolist() == losses(events)
    state = read_state(run).state
    assert state is not None
    assert (state.state, state.step, state.adapter) == ("finished", 3, "adapter")


_KEPT = ("run_started", "step_finished", "evaluation_finished", "checkpoint_saved", "run_finished")


def test_an_update_says_what_it_learned_from(tmp_path: Path, model: Path) -> None:
    rows = make_rows(6)
    run = make_run(tmp_path, model, rows, training__epochs=1.0, training__batch_size=6)

    (step,) = of_kind(events_of(run), StepFinished)

    assert sorted(step.rows) == list(range(6))
    assert step.tokens == sum(len(row.ids) for row in rows)
    assert step.learned_tokens == sum(row.learned_tokens for row in rows)
    assert step.epoch == 1.0
    assert step.memory["weights"] > 0
    assert step.memory["adapter"] > 0
    assert step.memory["other"] > 0


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("batch", "accumulation"), [(24, 1), (3, 8), (1, 24)])
def test_the_loss_of_an_update_is_that_of_its_tokens_however_they_are_spread(
    tmp_path: Path, model: Path, packing: bool, batch: int, accumulation: int
) -> None:
    rows = make_rows(24)
    run = make_run(
        tmp_path,
        model,
        rows,
        data__packing=packing,
        training__batch_size=batch,
        training__gradient_accumulation=accumulation,
        training__epochs=1.0,
    )
    step = of_kind(events_of(run), StepFinished)[0]
    seen = [rows[row] for row in step.rows]

    adapter = tmp_path / "fresh"
    save_fresh_adapter(model, adapter, LoraConfig(r=4), NF4)
    expected = plain_loss(plain_tuned(model, adapter, NF4), seen)

    assert step.loss == pytest.approx(float(expected), rel=1e-5)


def test_packed_and_unpacked_rows_teach_the_same(tmp_path: Path, model: Path) -> None:
    """All rows in each update: whatever the packing, the adapter must end the same."""
    ends = []
    for packing in (True, False):
        run = make_run(
            tmp_path,
            model,
            data__packing=packing,
            training__batch_size=24,
            training__gradient_accumulation=1,
            training__steps=4,
            training__learning_rate=1e-3,
        )
        events_of(run)
        ends.append(trained_weights(run))

    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], atol=2e-4, rtol=1e-2)


def test_a_token_counts_as_much_as_its_weight(tmp_path: Path, model: Path) -> None:
    rows = make_rows(4)
    halved = [TokenizedRow(row.row, row.ids, row.weights / np.float32(2)) for row in rows]

    full = losses(events_of(make_run(tmp_path, model, rows, training__steps=1)))
    half = losses(events_of(make_run(tmp_path, model, halved, training__steps=1)))

    assert half[0] == pytest.approx(full[0] / 2)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path, model: Path) -> None:
    runs = [make_run(tmp_path, model, training__steps=3, training__seed=seed) for seed in (0, 0, 1)]

    first, again, other = (losses(events_of(run)) for run in runs)

    assert first == again
    assert first != other


@pytest.mark.parametrize(
    "changes",
    [
        {"model__quantization": "fp4"},
        {"model__quantization": "int8"},
        {"model__quantization": "none"},
        {"model__double_quant": False},
        {"model__compute_dtype": "bfloat16"},
        {"model__compute_dtype": "float16"},
        {"model__compute_dtype": "auto"},
        {"lora__use_dora": True},
        {"lora__use_rslora": True},
        {"lora__dropout": 0.1},
        {"lora__target_modules": ["q_proj", "v_proj"]},
        {"training__neftune_alpha": 5.0},
        {"training__optimizer": "adamw_32bit"},
        {"training__optimizer": "paged_adamw_8bit"},
        {"training__method": "pretrain"},
        {"data__packing": False},
    ],
    ids=lambda changes: " ".join(f"{key.replace('__', '.')}={value}" for key, value in changes.items()),
)
def test_each_setting_trains(tmp_path: Path, model: Path, changes: dict[str, Any]) -> None:
    settings = {"training__steps": 8, "training__learning_rate": 2e-2, "training__batch_size": 6, **changes}
    events = events_of(make_run(tmp_path, model, **settings))

    assert events[-1].state == "finished"
    assert losses(events)[-1] < losses(events)[0]


def test_after_a_run_nothing_of_it_is_kept_in_ram(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers stay for a chat, and with them what took their inputs there."""
    made: list[HostedInputs] = []
    held: list[int] = []

    def with_inputs_in_ram(model: Any, count: int, _: None) -> int:
        made.append(HostedInputs())
        return recompute(model, count, made[-1])

    def let_go(hosted: HostedInputs) -> None:
        held.append(len(hosted._latest))
        HostedInputs.let_go(hosted)

    monkeypatch.setattr(layer_setup, "recompute", with_inputs_in_ram)
    close = training_job._TrainingJob.close

    def closed(job: Any) -> None:
        job._run.setup = replace(job._run.setup, hosted=made[-1])  # as on a card
        made[-1].let_go = partial(let_go, made[-1])  # type: ignore[method-assign]
        close(job)

    monkeypatch.setattr(training_job._TrainingJob, "close", closed)
    events = events_of(make_run(tmp_path, model, training__steps=2, training__recompute="all"))
    assert events[-1].state == "finished"
    assert held == [2]
    assert made[-1]._latest == {}


def test_a_run_that_ram_has_no_room_for_any_more_ends_in_words() -> None:
    shape = known_shape("llama-7b")
    config = RunConfig(training=TrainingConfig(recompute=HOST))

    def promised(ram: int) -> Promise:
        return promise(shape, config, device="cuda", free_bytes=2**36, free_ram_bytes=ram)

    prepared_run._require_ram(promised(2**36))
    with pytest.raises(StudioError, match=r"need .* GiB of RAM; 0.1 are free") as refused:
        prepared_run._require_ram(promised(2**27))
    assert "resume it" in refused.value.hint


def test_on_a_processor_it_is_said_that_the_optimizer_is_not_paged(tmp_path: Path, model: Path) -> None:
    paged = make_run(tmp_path, model, training__steps=1)
    plain = make_run(tmp_path, model, training__steps=1, training__optimizer="adamw_32bit")

    notes = [of_kind(events_of(run), ModelLoaded)[0].notes for run in (paged, plain)]

    assert notes == [("The optimizer is AdamW in 32 bit; on a processor it isn't paged.",), ()]


@pytest.mark.parametrize(
    ("in_fp8", "said"),
    [
        (InFp8(6, {}), ()),
        (
            InFp8(5, {"1.down": "it is odd"}),
            ("Products are made in fp8 in 5 linear layers; 1 stays in 16 bit: 1.down (it is odd).",),
        ),
        (
            InFp8(1, dict.fromkeys("abcde", "it is odd")),
            (
                "Products are made in fp8 in 1 linear layer; 5 stay in 16 bit: a (it is odd), b (it is odd), "
                "c (it is odd) and 2 more.",
            ),
        ),
        (InFp8(0, {"1.up": "it is odd"}), ("Products are made in 16 bit, not in fp8: it is odd.",)),
        (InFp8(0, {}), ("Products are made in 16 bit, not in fp8: it has no fused 4-bit layer.",)),
    ],
    ids=["all", "all but one", "few", "none, as refused", "none there"],
)
def test_it_is_said_which_layers_do_not_multiply_in_fp8(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, in_fp8: InFp8, said: tuple[str, ...]
) -> None:
    """As on a card, where layers are compiled."""
    monkeypatch.setattr(layer_setup, "why_not_compiled", lambda *_: None)
    monkeypatch.setattr(layer_setup, "not_fp8_reason", lambda *_: None)
    monkeypatch.setattr(layer_setup, "compile_layers", lambda *_: None)
    monkeypatch.setattr(layer_setup, "multiply_in_fp8", lambda *_, wanted: in_fp8)
    settings: dict[str, Any] = {"training__steps": 1, "training__optimizer": "adamw_32bit"}
    run = make_run(tmp_path, model, training__fp8=True, **settings)
    assert of_kind(events_of(run), ModelLoaded)[0].notes == said


def test_on_a_processor_it_is_said_that_products_are_not_made_in_fp8(tmp_path: Path, model: Path) -> None:
    settings: dict[str, Any] = {"training__steps": 1, "training__optimizer": "adamw_32bit"}
    asked, plain = (make_run(tmp_path, model, training__fp8=fp8, **settings) for fp8 in (True, False))

    told, silent = (events_of(run) for run in (asked, plain))

    (note,) = of_kind(told, ModelLoaded)[0].notes
    assert note.startswith("Products are made in 16 bit, not in fp8: layers aren't compiled (")
    assert of_kind(silent, ModelLoaded)[0].notes == ()
    assert losses(told) == losses(silent)


def test_on_a_processor_nothing_hangs_on_keeping_weights_dequantized(tmp_path: Path, model: Path) -> None:
    settings: dict[str, Any] = {"training__steps": 1, "training__optimizer": "adamw_32bit"}
    asked, plain = (
        make_run(tmp_path, model, training__keep_dequantized=on, **settings) for on in (True, False)
    )

    told, silent = (events_of(run) for run in (asked, plain))

    assert of_kind(told, ModelLoaded)[0].notes == ()
    assert losses(told) == losses(silent)


@pytest.mark.parametrize("layers", [1, "all", "host"])
def test_recomputed_layers_give_the_same_bits(tmp_path: Path, model: Path, layers: int | str) -> None:
    settings: dict[str, Any] = {"training__steps": 3, "lora__dropout": 0.1}
    kept = make_run(tmp_path, model, **settings)
    recomputed = make_run(tmp_path, model, training__recompute=layers, **settings)

    assert losses(events_of(recomputed)) == losses(events_of(kept))
    assert all(torch.equal(trained_weights(kept)[name], w) for name, w in trained_weights(recomputed).items())


def test_float16_gradients_that_overflow_are_made_again_smaller(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "LARGEST_SCALE", 2.0**40)  # every gradient overflows at first
    run = make_run(tmp_path, model, training__steps=2, model__compute_dtype="float16")

    events = events_of(run)

    assert [step.non_finite for step in of_kind(events, StepFinished)] == [None, None]
    assert read_state(run).state.state == "finished"  # type: ignore[union-attr]


def test_gradients_longer_than_the_limit_are_shortened_to_it(tmp_path: Path, model: Path) -> None:
    """With a limit so small, AdamW's first step is as large, but its state shows the shortened gradient."""
    run = make_run(tmp_path, model, training__steps=1, training__max_grad_norm=1e-3)

    (step,) = of_kind(events_of(run), StepFinished)

    state = load_file(run / "checkpoints" / "step-000001" / "optimizer.safetensors")
    first_moments = torch.cat(
        [tensor.flatten() for name, tensor in state.items() if name.endswith(".exp_avg")]
    )
    assert step.grad_norm is not None
    assert step.grad_norm > 0.1
    assert float(first_moments.norm()) == pytest.approx(0.1 * 1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule: Any, expected: list[float]) -> None:
    training = TrainingConfig(learning_rate=1.0, schedule=schedule, warmup_steps=2)

    assert [learning_rate(step, 6, training) for step in range(1, 7)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("wish", [Wish.STOP, Wish.PAUSE])
def test_a_run_asked_to_end_saves_after_the_update_in_hand(
    tmp_path: Path, model: Path, wish: Wish
) -> None:  # R4
    run = make_run(tmp_path, model, samples=(SAMPLE,), checkpoints__every_steps=100, training__epochs=9.0)

    events = events_of(run, wish, after_step=3)

    assert [event.step for event in of_kind(events, StepFinished)] == [1, 2, 3]
    assert [info.step for info in checkpoints(run, verify=True) if info.sound][-1] == 3
    assert events[-1].state == {Wish.STOP: "stopped", Wish.PAUSE: "paused"}[wish]
    assert (run / "adapter").is_dir() == (wish is Wish.STOP)
    saved_at = next(
        i for i, event in enumerate(events) if isinstance(event, CheckpointSaved) and event.step == 3
    )
    measured = [
        i for i, event in enumerate(events) if isinstance(event, EvaluationFinished) and event.step == 3
    ]
    assert len(measured) == (wish is Wish.STOP)
    assert all(i > saved_at for i in measured)


def test_a_run_asked_to_save_goes_on(tmp_path: Path, model: Path) -> None:
    run = make_run(
        tmp_path, model, training__steps=4, checkpoints__every_steps=100, checkpoints__evaluate_every_steps=0
    )

    events = events_of(run, Wish.SAVE, after_step=2, once=True)

    assert [event.step for event in of_kind(events, CheckpointSaved)] == [2, 4]
    assert events[-1].state == "finished"


def test_a_run_that_is_stopped_before_its_first_update_leaves_nothing_behind(
    tmp_path: Path, model: Path
) -> None:
    run = make_run(tmp_path, model)

    events = events_of(run, Wish.STOP, after_step=0)

    assert (events[-1].state, events[-1].step, events[-1].adapter) == ("paused", 0, None)
    assert not (run / "checkpoints").exists()


def test_the_best_evaluation_keeps_its_checkpoint(tmp_path: Path, model: Path) -> None:
    run = make_run(
        tmp_path,
        model,
        training__steps=10,
        training__learning_rate=0.05,
        checkpoints__evaluate_every_steps=1,
        checkpoints__every_steps=1,
    )

    events = events_of(run)

    measured = of_kind(events, EvaluationFinished)
    best = min((event for event in measured if event.step > 0), key=lambda event: event.loss or math.inf)
    kept = [info.step for info in checkpoints(run)]
    assert {9, 10} <= set(kept)
    assert len(kept) <= 3
    assert best.step in kept or measured[0].loss < best.loss  # type: ignore[operator]


def test_a_run_that_gets_no_better_ends_early(tmp_path: Path, model: Path) -> None:
    run = make_run(
        tmp_path,
        model,
        training__steps=50,
        training__learning_rate=0.3,
        early_stopping__patience=2,
        checkpoints__evaluate_every_steps=1,
    )

    finished = events_of(run)[-1]

    assert finished.state == "finished"
    assert finished.step < 50
    assert (run / "adapter").is_dir()


def test_noise_on_the_embeddings_is_as_wide_as_the_paper_says() -> None:
    from qlora_studio.engine.attention import Segments
    from qlora_studio.engine.embedding_noise import EmbeddingNoise

    embedded = torch.zeros(1, 300, 64)
    segments = Segments.of((100, 200), CPU.torch_device)

    noisy = EmbeddingNoise(5.0, 0, CPU.torch_device).added_to(embedded, segments)

    widths = [float(part.abs().max()) for part in noisy.split_with_sizes((100, 200), dim=1)]
    assert widths == pytest.approx([5 / math.sqrt(100 * 64), 5 / math.sqrt(200 * 64)], rel=0.01)


def test_no_event_is_too_long_for_the_pipe(tmp_path: Path, model: Path) -> None:  # S13
    """An update of 100,000 rows names them all in one line."""
    rows = tuple(np.arange(1_000_000, 1_100_000).tolist())
    (step, *_) = of_kind(events_of(make_run(tmp_path, model, training__steps=1)), StepFinished)

    assert len(EVENTS.encode(msgspec.structs.replace(step, rows=rows))) < 1_000_000


@pytest.mark.parametrize("wish", [Wish.STOP, Wish.PAUSE])
def test_a_run_that_is_to_end_while_its_model_loads_loads_no_further(tmp_path: Path, wish: Wish) -> None:
    run = make_run(tmp_path, make_model(tmp_path / "model"))
    holder = ModelHolder(CPU)

    told = list(run_training(run, holder, lambda: wish))

    loading = of_kind(told, LoadingProgress)
    assert [event.done for event in loading] == [0]
    assert told[len(loading) :] == [RunFinished(run=str(run), step=0, adapter=None, state="paused")]
    assert holder.held is None
    state = read_state(run).state
    assert state is not None
    assert (state.state, state.step, state.cause) == ("paused", 0, "")
    assert of_kind(events_of(run), RunFinished)[0].state == "finished"  # it can be gone on with


def test_a_run_that_goes_on_and_is_given_up_while_it_loads_stands_at_its_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_model(tmp_path / "model"))
    step = of_kind(events_of(run, Wish.PAUSE, after_step=2), RunFinished)[0].step

    end = list(run_training(run, ModelHolder(CPU), lambda: Wish.STOP))[-1]

    assert (end.state, end.step, end.adapter) == ("paused", step, None)
    state = read_state(run).state
    assert state is not None
    assert (state.state, state.step) == ("paused", step)
    assert state.loss is not None
    assert of_kind(events_of(run), RunFinished)[0].state == "finished"
