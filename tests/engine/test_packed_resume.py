"""A run that was packed on one machine goes on, on another, to the bits it would have had."""

import shutil
from pathlib import Path

from qlora_studio.engine.wish import Wish
from qlora_studio.runs.metrics import read_metrics
from qlora_studio.runs.packed_run import pack_run, unpack_run
from tests.engine.tiny import events_of, make_model, make_run


def test_an_unpacked_run_ends_with_the_bits_of_one_that_stayed(tmp_path: Path) -> None:  # R3
    here, there = tmp_path / "here", tmp_path / "there"
    model = make_model(here / "model")
    stayed = make_run(here, model, training__steps=6, lora__dropout=0.2)
    moved = make_run(here, model, training__steps=6, lora__dropout=0.2)
    events_of(stayed)
    losses = read_metrics(stayed / "metrics.jsonl").loss.tolist()
    weights = (stayed / "adapter" / "adapter_model.safetensors").read_bytes()
    events_of(moved, Wish.PAUSE, after_step=3)
    pack_run(moved, tmp_path / "moved.run.tar")
    shutil.copytree(model, there / "model")
    shutil.rmtree(here)

    unpacked = unpack_run(tmp_path / "moved.run.tar", there / "runs", str(there / "model"))
    finished = events_of(unpacked.folder)[-1]

    assert (unpacked.step, finished.state) == (3, "finished")
    assert read_metrics(unpacked.folder / "metrics.jsonl").loss.tolist() == losses
    assert (unpacked.folder / "adapter" / "adapter_model.safetensors").read_bytes() == weights


def test_a_model_of_which_all_weights_were_trained_goes_with_its_run(tmp_path: Path) -> None:
    full = {"training__finetuning": "full", "model__quantization": "none", "training__learning_rate": 1e-3}
    model = make_model(tmp_path / "model")
    run = make_run(tmp_path, model, training__steps=4, **full)
    events_of(run, Wish.STOP, after_step=2)
    before = {file.name: file.read_bytes() for file in (run / "model").iterdir()}
    pack_run(run, tmp_path / "moved.run.tar")

    unpacked = unpack_run(tmp_path / "moved.run.tar", tmp_path / "there", str(model))

    assert {file.name: file.read_bytes() for file in (unpacked.folder / "model").iterdir()} == before
    finished = events_of(unpacked.folder)[-1]
    assert (finished.step, finished.state, finished.model) == (4, "finished", str(unpacked.folder / "model"))
    assert {file.name for file in (unpacked.folder / "model").iterdir()} == before.keys()
    assert (unpacked.folder / "model" / "model.safetensors").read_bytes() != before["model.safetensors"]
