"""A run that trains on an adapter: from its very numbers, without its folder, and bit for bit on resume."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import EvaluationFinished, RunFailed, RunStarted, StepFinished
from qlora_studio.runs.durable import remove_folder
from qlora_studio.runs.folder import create_run
from qlora_studio.runs.run_record import read_record
from qlora_studio.runs.start import START_FILE, start_adapter
from tests.engine.plain_stack import assert_plain_peft_agrees
from tests.engine.test_resume import RESTLESS, assert_same_bits
from tests.engine.tiny import events_of, make_model, make_run, of_kind
from tests.engine.tuned_run import make_tuned_run

NF4 = Storage("nf4", True, torch.float32)
IDS = torch.arange(3, 20)[None]
SHAPES: list[dict[str, Any]] = [
    {"lora__use_dora": True, "lora__use_rslora": True, "lora__alpha": 32},
    {"lora__target_modules": ["q_proj", "down_proj"], "lora__r": 2},
    {"lora__layers": "1", "lora__ranks": {"q_proj": 7}, "lora__alphas": {"q_proj": 3}},
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def make_next(home: Path, model: Path, before: Path, **changes: Any) -> Path:
    """A run of these settings that trains on the adapter of another, made as the reader makes it."""
    from qlora_studio.reader.start import start_of

    record = read_record(make_run(home, model, **changes)).record
    lora = msgspec.structs.replace(record.config.lora, start_from=str(before))
    start = start_of(msgspec.structs.replace(record.config, lora=lora))
    config = msgspec.structs.replace(record.config, lora=start.lora)
    hashes = msgspec.structs.replace(record.hashes, start=start.sha256)
    record = msgspec.structs.replace(record, config=config, hashes=hashes)
    return create_run(home / "runs", record, start=start.blocks())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_begins_where_the_adapter_stood_whatever_its_own_settings_say(
    tmp_path: Path, model: Path, shape: dict[str, Any]
) -> None:
    first = make_run(tmp_path, model, training__steps=6, **shape)
    left = of_kind(events_of(first), EvaluationFinished)[-1]

    following = make_next(tmp_path, model, first, training__steps=4, lora__r=7)
    events = events_of(following)

    assert of_kind(events, EvaluationFinished)[0].loss == left.loss
    assert of_kind(events, EvaluationFinished)[-1].loss != left.loss
    now, then = (read_record(run).record.config.lora for run in (following, first))
    assert now == msgspec.structs.replace(then, start_from=str(first))
    assert read_record(following).record.hashes.start


def test_plain_peft_reads_what_came_of_it_and_gives_the_same_logits(tmp_path: Path, model: Path) -> None:
    first = make_tuned_run(tmp_path, model)
    following = make_next(tmp_path, model, first, training__steps=3, training__learning_rate=1e-3)
    events_of(following)

    before, after = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (first, following))
    assert_plain_peft_agrees(model, following / "adapter", NF4, IDS)
    assert before.keys() == after.keys()
    # Three small updates move an adapter a little; one that began anew would be nothing like the first.
    assert all(0 < (after[name] - before[name]).norm() < 0.2 * before[name].norm() for name in before)


@pytest.mark.parametrize("stop_after", [0, 3])
def test_it_goes_on_bit_for_bit_when_the_adapters_folder_is_gone(
    tmp_path: Path, model: Path, stop_after: int
) -> None:
    first = make_tuned_run(tmp_path, model)
    settings = {**RESTLESS, "training__steps": 5}
    unbroken = make_next(tmp_path, model, first, **settings)
    broken = make_next(tmp_path, model, first, **settings)
    remove_folder(first)
    events_of(unbroken)

    events_of(broken, Wish.PAUSE, after_step=stop_after)
    events = events_of(broken)

    assert of_kind(events, RunStarted)[0].step == stop_after
    assert len(of_kind(events, StepFinished)) == 5 - stop_after
    assert_same_bits(broken, unbroken)


def test_what_it_starts_from_is_never_another_file(tmp_path: Path, model: Path) -> None:
    run = make_next(tmp_path, model, make_tuned_run(tmp_path, model))
    file = run / START_FILE
    kept = load_file(file)
    save_file({name: weight * 2 for name, weight in kept.items()}, file)
    changed = events_of(run)[-1]
    file.unlink()
    missing = events_of(run)[-1]

    assert isinstance(changed, RunFailed) and isinstance(missing, RunFailed)
    assert f"{file} is not what this run was made to start from" in changed.error.message
    assert f"{file}, which this run starts from, can't be read" in missing.error.message


def test_of_a_run_that_went_on_the_newest_is_taken(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path, model, training__steps=8, checkpoints__every_steps=1)
    events_of(run, Wish.STOP, after_step=2)
    assert start_adapter(run).folder == run / "adapter"
    events_of(run, Wish.PAUSE, after_step=2)
    assert start_adapter(run).folder == run / "checkpoints" / "step-000004"
    events_of(run)
    assert start_adapter(run).folder == run / "adapter"
