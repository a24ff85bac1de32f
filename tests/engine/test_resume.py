"""A run that was interrupted ends with the very bits of one that was not (R3), or says why it can't go on."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from qlora_studio.data.prepared import EncodedSample
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.training_job import run_training
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import (
    EvaluationFinished,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleReady,
    StepFinished,
)
from qlora_studio.runs.lock import is_locked
from qlora_studio.runs.metrics import read_metrics
from qlora_studio.runs.run_record import read_record
from qlora_studio.runs.run_state import read_state
from qlora_studio.runs.samples import read_samples
from tests.engine.tiny import CPU, events_of, losses, make_model, make_rows, make_run, of_kind

# Everything that draws at random or carries something from one update to the next.
RESTLESS: dict[str, Any] = {
    "training__steps": 9,  # 3 an epoch
    "training__schedule": "cosine",
    "training__warmup_steps": 3,
    "training__neftune_alpha": 5.0,
    "training__weight_decay": 0.1,
    "lora__dropout": 0.2,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def adapter_of(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(run / "adapter" / "adapter_model.safetensors")
    return weights


def assert_same_bits(run: Path, other: Path) -> None:
    assert (
        read_metrics(run / "metrics.jsonl").loss.tolist()
        == read_metrics(other / "metrics.jsonl").loss.tolist()
    )
    for name, weight in adapter_of(run).items():
        assert torch.equal(weight, adapter_of(other)[name]), name


@pytest.mark.parametrize(
    ("wish", "stop_after", "dtype"),
    [
        (Wish.PAUSE, 3, "float32"),  # between two epochs
        (Wish.PAUSE, 4, "float32"),  # in the middle of one
        (Wish.STOP, 5, "float32"),
        (Wish.PAUSE, 4, "bfloat16"),
        (Wish.PAUSE, 4, "float16"),
    ],
)
def test_a_run_that_went_on_equals_one_that_never_stopped(
    tmp_path: Path, model: Path, wish: Wish, stop_after: int, dtype: str
) -> None:
    unbroken = make_run(tmp_path, model, **RESTLESS, model__compute_dtype=dtype)
    broken = make_run(tmp_path, model, **RESTLESS, model__compute_dtype=dtype)
    events_of(unbroken)

    events_of(broken, wish, after_step=stop_after)
    events = events_of(broken)

    assert of_kind(events, RunStarted)[0].step == stop_after
    assert_same_bits(broken, unbroken)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora__use_dora": True},
        {
            "lora__layers": "1",
            "lora__ranks": {"q_proj": 7, "1.mlp.down_proj": 2},
            "lora__alphas": {"q_proj": 3},
        },
        {"model__quantization": "int8"},
        {"data__packing": False},
        {"training__recompute": "all"},
    ],
    ids=str,
)
def test_the_same_holds_for_other_ways_to_train(tmp_path: Path, model: Path, changes: dict[str, Any]) -> None:
    settings = {**RESTLESS, "training__steps": 5, **changes}
    unbroken, broken = make_run(tmp_path, model, **settings), make_run(tmp_path, model, **settings)
    events_of(unbroken)

    events_of(broken, Wish.PAUSE, after_step=2)
    events_of(broken)

    assert_same_bits(broken, unbroken)


@pytest.mark.fault(1)
def test_a_run_killed_in_the_middle_of_an_accumulation_goes_on_from_its_last_checkpoint(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = make_run(tmp_path, model, **RESTLESS)
    broken = make_run(tmp_path, model, **RESTLESS)
    events_of(unbroken)
    from qlora_studio.engine import objective

    real, calls = vars(objective)["learned_loss"], iter(range(1, 100))

    def dies_in_the_sixth_update(*inputs: Any) -> Any:
        # two micro-batches each: this is its second; an evaluation's aren't counted
        if torch.is_grad_enabled() and next(calls) == 12:
            raise KeyboardInterrupt
        return real(*inputs)

    with monkeypatch.context() as patched:
        patched.setattr(objective, "learned_loss", dies_in_the_sixth_update)
        with pytest.raises(KeyboardInterrupt):
            events_of(broken)

    events = events_of(broken)

    assert of_kind(events, RunStarted)[0].step == 4
    assert_same_bits(broken, unbroken)


def test_a_chat_in_between_changes_nothing(tmp_path: Path, model: Path) -> None:
    from qlora_studio.engine.greedy import continue_greedily

    unbroken = make_run(tmp_path, model, **RESTLESS)
    broken = make_run(tmp_path, model, **RESTLESS)
    events_of(unbroken)
    holder = ModelHolder(CPU)
    events_of(broken, Wish.STOP, after_step=4, holder=holder)
    assert holder.held is not None
    holder.held.use(holder.held.add_from(broken / "adapter"))
    continue_greedily(holder.held.causal_lm, [5, 6, 7], max_tokens=9, stop_ids=())

    events_of(broken, holder=holder)

    assert_same_bits(broken, unbroken)


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path, model, training__steps=3)
    events_of(run)
    before = adapter_of(run)

    events = events_of(run)

    assert losses(events) == []
    assert events[-1].state == "finished"
    assert all(torch.equal(before[name], weight) for name, weight in adapter_of(run).items())


def test_a_run_resumed_without_a_further_step_keeps_its_peak_and_speed(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path, model, training__steps=3)
    events_of(run)
    before = read_state(run).state

    events_of(run)

    after = read_state(run).state
    assert before is not None and after is not None and before.peak_bytes > 0
    assert (after.peak_bytes, after.tokens_per_second) == (before.peak_bytes, before.tokens_per_second)


def paused_run(tmp_path: Path, model: Path) -> Path:
    run = make_run(tmp_path, model, training__steps=6)
    events_of(run, Wish.PAUSE, after_step=4)
    return run


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "gradient_accumulation", 3),
        ("training", "batch_size", 1),
        ("training", "seed", 7),
        ("training", "optimizer", "adamw_32bit"),
        ("training", "schedule", "linear"),
        ("training", "learning_rate", 0.5),
        ("training", "steps", 8),
        ("data", "seq_len", 48),
        ("lora", "r", 8),
        ("model", "quantization", "fp4"),
    ],
)
def test_settings_that_change_the_numbers_are_refused_by_name(  # R3, fault 8
    tmp_path: Path, model: Path, section: str, key: str, value: Any
) -> None:
    run = paused_run(tmp_path, model)
    record = json.loads((run / "run.json").read_text())
    record["config"][section][key] = value
    (run / "run.json").write_text(json.dumps(record))

    failed = events_of(run)[-1]

    name = "total_steps" if key == "steps" else f"{section}.{key}"
    assert name in failed.error.message or "training.steps" in failed.error.message
    assert "new run" in failed.error.hint
    assert losses([failed]) == []


def test_another_model_or_template_is_refused(tmp_path: Path, model: Path) -> None:  # R3
    run = paused_run(tmp_path, model)
    record = read_record(run).record
    changed = msgspec.structs.replace(record, hashes=msgspec.structs.replace(record.hashes, template="other"))
    (run / "run.json").write_bytes(msgspec.json.encode(changed))

    assert "hashes.template" in events_of(run)[-1].error.message


@pytest.mark.fault(8)
def test_rows_that_were_touched_are_refused(tmp_path: Path, model: Path) -> None:  # R3, fault 8
    run = paused_run(tmp_path, model)
    prepared = Path(read_record(run).record.prepared.folder)
    other = make_run(tmp_path, model, make_rows(24, seed=5))
    shutil.copy(Path(read_record(other).record.prepared.folder) / "train.arrow", prepared / "train.arrow")

    failed = events_of(run)[-1]

    assert str(prepared) in failed.error.message
    assert "new run" in failed.error.hint


def test_where_files_and_weights_lie_and_how_much_is_recomputed_may_change(
    tmp_path: Path, model: Path
) -> None:
    run = paused_run(tmp_path, model)
    moved = model.rename(tmp_path / "moved")
    record = json.loads((run / "run.json").read_text())
    record["config"]["model"]["path"] = str(moved)
    record["config"]["training"] |= {"recompute": "all", "keep_dequantized": True, "embedding_in_ram": True}
    (run / "run.json").write_text(json.dumps(record))

    assert events_of(run)[-1].state == "finished"


@pytest.mark.fault(7)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, model: Path) -> None:  # R2
    run = make_run(tmp_path, model, training__steps=6)
    events_of(run, Wish.PAUSE, after_step=4)
    file = run / "checkpoints" / "step-000004" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])

    events = events_of(run)

    assert [step.step for step in of_kind(events, StepFinished)] == [3, 4, 5, 6]


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_afresh(
    tmp_path: Path, model: Path
) -> None:  # R2
    run = paused_run(tmp_path, model)
    for folder in (run / "checkpoints").iterdir():
        (folder / "trainer.json").unlink()

    failed = events_of(run)[-1]

    assert "trainer.json" in failed.error.message
    assert losses(events_of(run)) == []


@pytest.mark.fault(13)
def test_one_engine_at_a_time_writes_to_a_run(tmp_path: Path, model: Path) -> None:  # R8
    from qlora_studio.runs.run_writer import RunWriter

    run = make_run(tmp_path, model)
    with RunWriter(run):
        failed = events_of(run)[-1]

    assert "open elsewhere" in failed.error.message
    assert (run / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("wish", [Wish.PAUSE, Wish.STOP, Wish.NOTHING])
def test_a_run_that_has_told_its_end_can_be_resumed_at_once(tmp_path: Path, model: Path, wish: Wish) -> None:
    run = make_run(tmp_path, model, training__steps=2)

    locked = [
        is_locked(run)
        for event in run_training(run, ModelHolder(CPU), lambda: wish)
        if isinstance(event, RunFinished)
    ]

    assert locked == [False]


def test_a_run_that_has_told_its_failure_can_be_resumed_at_once(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qlora_studio.engine.update.Updater.update", None)
    run = make_run(tmp_path, model)

    locked = [
        is_locked(run)
        for event in run_training(run, ModelHolder(CPU), lambda: Wish.NOTHING)
        if isinstance(event, RunFailed)
    ]

    assert locked == [False]


PROMPTS = tuple(EncodedSample(prompt=str(token), ids=(token,), max_tokens=3) for token in (5, 7))


def told_between_updates(run: Path) -> tuple[list[Any], list[Any]]:
    """Evaluations and samples of a whole run."""
    evaluations = [
        (line.step, line.loss, line.best) for line in read_metrics(run / "metrics.jsonl").evaluations
    ]
    samples = [
        (sample.step, sample.index, sample.reply) for sample in read_samples(run / "samples.jsonl").samples
    ]
    return evaluations, samples


def test_what_was_due_at_the_step_of_a_pause_is_made_up_for_on_resume(tmp_path: Path, model: Path) -> None:
    settings = {"training__steps": 6, "early_stopping__patience": 9, "samples": PROMPTS}
    unbroken, broken = make_run(tmp_path, model, **settings), make_run(tmp_path, model, **settings)
    events_of(unbroken)

    events_of(broken, Wish.PAUSE, after_step=4)  # said before the evaluation of step 4
    assert [step for step, *_ in told_between_updates(broken)[0]] == [0, 2]
    events_of(broken)

    assert told_between_updates(broken) == told_between_updates(unbroken)


@pytest.mark.parametrize("stops_before", [4, 6])  # 6 is the last step
def test_what_was_due_when_the_engine_died_after_a_save_is_made_up_for_on_resume(
    tmp_path: Path, model: Path, stops_before: int
) -> None:
    settings = {"training__steps": 6, "samples": PROMPTS}
    unbroken, broken = make_run(tmp_path, model, **settings), make_run(tmp_path, model, **settings)
    events_of(unbroken)

    for event in run_training(broken, ModelHolder(CPU), lambda: Wish.NOTHING):
        if isinstance(event, SampleReady) and event.step == stops_before:
            break  # the first of two replies is there, the checkpoint too
    resumed = events_of(broken)

    assert told_between_updates(broken) == told_between_updates(unbroken)
    assert of_kind(resumed, RunStarted)[0].step == stops_before
    again = [event.step for event in of_kind(resumed, EvaluationFinished)]
    assert stops_before not in again  # it was made before the save
    assert resumed[-1].evaluation_loss == told_between_updates(unbroken)[0][-1][1]
