"""`sweep`: a list of runs made one after another, gone on with where it was left."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from qlora_studio.cli import sweep as cli_sweep
from qlora_studio.cli import training
from qlora_studio.cli.main import parse, run_command
from qlora_studio.cli.recipes import chosen_shape
from qlora_studio.cli.sweep import table_lines
from qlora_studio.cli.training import settings_from
from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.errors import StudioError
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import events
from qlora_studio.protocol.sweep_plan import new_sweep, variants
from qlora_studio.runs.sweep import Row, Sweep, write_sweep
from tests.reader.whole_model import chats_file, whole_model
from tests.runs.test_sweep import points

SETTINGS = """
[model]
path = "tiny"
compute_dtype = "float32"
[data]
path = "chats.jsonl"
seq_len = 128
validation = 0.2
[training]
steps = 2
batch_size = 1
gradient_accumulation = 1
[checkpoints]
every_steps = 1
evaluate_every_steps = 1
"""


def sweep(*words: str) -> int:
    return run_command(parse(("sweep", *words)))


@pytest.fixture
def settings(tmp_path, monkeypatch):
    whole_model(tmp_path / "tiny")
    chats_file(tmp_path / "chats.jsonl")
    (tmp_path / "my.toml").write_text(SETTINGS, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_runs_are_made_one_after_another_and_what_is_finished_stays(settings, capsys):
    assert sweep("my.toml", "--vary", "lora.r=2,4", "--out", "mine", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in made["rows"]] == ["lora.r = 2", "lora.r = 4"]
    assert all(row["loss"] > 0 and row["finished"] == 1 for row in made["rows"])
    assert made["rows"][1]["parameters"] == 2 * made["rows"][0]["parameters"]
    assert (settings / "mine" / "losses.svg").is_file()

    first, second = (Path(run) for run in made["runs"])
    shutil.rmtree(second / "adapter")  # as if it had been killed after its first update
    shutil.rmtree(second / "checkpoints" / "step-000002")
    (second / "state.json").unlink()
    lines = (second / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"run_finished"' not in line]
    (second / "metrics.jsonl").write_text("".join(kept))
    before = (first / "metrics.jsonl").read_bytes()

    assert sweep("mine", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["runs"] == made["runs"]
    assert [row["loss"] for row in again["rows"]] == pytest.approx([row["loss"] for row in made["rows"]])
    assert (first / "metrics.jsonl").read_bytes() == before
    assert (second / "adapter").is_dir()


@pytest.mark.slow
def test_ctrl_c_after_the_last_step_of_a_run_ends_the_sweep_there(settings, capfd, monkeypatch):
    tell = training._Lines.tell

    def interrupted(self, event):
        tell(self, event)
        if isinstance(event, events.StepFinished) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training._Lines, "tell", interrupted)
    assert sweep("my.toml", "--vary", "lora.r=2,4", "--out", "mine") == 130
    said = capfd.readouterr()
    assert f"To go on: qlora-studio sweep {settings / 'mine'}" in said.out
    assert "finished at step 2" in said.out and "2 of 2" not in said.out
    assert training.STOPPING in said.err

    assert sweep("mine") == 0  # interrupted after the very last step, where nothing is left to do
    assert "1 of 2" not in (out := capfd.readouterr().out)
    assert "written to" in out


def test_what_a_sweep_was_made_with_can_not_be_changed(settings, capsys):
    config = settings_from(settings / "my.toml", ["training.seed=7"])
    shape = chosen_shape(config.model.path)
    made = new_sweep(config, shape, vary="lora.r=2,4", runs_dir=settings / "runs")
    write_sweep(settings / "mine", made)
    for option in (("--seeds", "0", "1"), ("--set", "lora.r=8"), ("--accept-skipped",)):
        assert sweep("mine", *option) == 2
        assert "is a sweep already" in capsys.readouterr().err


def test_without_seeds_it_has_that_of_the_settings(settings, monkeypatch):
    made = []

    def stopped(folder, given, place, quiet):
        made.append(given)
        return given, True

    monkeypatch.setattr(cli_sweep, "_run_point", stopped)
    sweep("my.toml", "--set", "training.seed=7", "--vary", "lora.r=2,4", "--out", "mine")
    assert {point.seed for point in made[0].points} == {7}


def test_a_setting_that_can_not_stand_is_refused_before_anything_starts(settings, capsys):
    assert sweep("my.toml", "--vary", "lora.r=2,-4", "--out", "mine") == 2
    assert "lora.r" in capsys.readouterr().err
    assert not (settings / "mine").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("my.toml", "--over", "ranks"), "A new sweep needs --out"),
        (("my.toml", "--out", "mine"), "either --over or --vary"),
        (("my.toml", "--vary", "lora.r=8", "--out", "mine"), "names no two values"),
        (("my.toml", "--over", "ranks", "--out", "tiny"), "exists already"),
        (("gone.toml", "--over", "ranks", "--out", "mine"), "gone.toml isn't there"),
        (("gone",), "gone isn't there"),
    ],
)
def test_what_is_missing_is_said(settings, capsys, words, said):
    assert sweep(*words) == 2
    assert said in capsys.readouterr().err


def test_layers_are_told_apart_in_any_family():
    for name in ("llama-7b", "qwen2.5-7b", "phi-3-mini", "gemma-2-2b"):
        _, _, (every, attention, feed_forward) = variants("layers", "", known_shape(name))
        assert every[1] == {"lora.target_modules": "all-linear"}
        assert all("attn" in target for target in attention[1]["lora.target_modules"])
        assert all("mlp" in target for target in feed_forward[1]["lora.target_modules"])


def test_precision_begins_with_16_bit_so_that_the_others_are_compared_with_it():
    _, axis, listed = variants("precision", "", known_shape("llama-7b"))
    assert (axis, listed[0]) == ("", ("LoRA, 16 bit", {"model.quantization": "none"}))


def test_only_positive_numbers_are_an_axis():
    shape = known_shape("llama-7b")
    assert variants("", "training.learning_rate=1e-4,2e-4", shape)[1] == "training.learning_rate"
    assert variants("", "lora.dropout=0.0,0.1", shape)[1] == ""
    assert variants("", "data.packing=true,false", shape)[1] == ""
    with pytest.raises(StudioError, match="no two values"):
        variants("", "lora.r", shape)


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ("training.seed=1,2", "training.seed compares nothing"),
        (" training.seed =1,2", "training.seed compares nothing"),
        ("lora.r=8,16,8", "names 8 twice"),
        ("training.learning_rate=1e-4,0.0001", "names 0.0001 twice"),
        ("data.packing=true,true", "names True twice"),
    ],
)
def test_values_that_would_be_the_same_runs_are_refused(vary, words):
    with pytest.raises(StudioError, match=words):
        variants("", vary, known_shape("llama-7b"))


def test_a_person_reads_loss_interval_and_difference():

    listed = Sweep(title="Rank: tiny", config=RunConfig(), points=points())
    row = Row("r = 16", 3, 3, 2.1, 0.3, -0.1, 0.01, 1_000, 2**30, 5.0)
    said = table_lines(listed, [row])
    assert said[2] == "r = 16     2.1000   0.3000     -0.1000   0.0100       1,000    1.0 GiB"
    assert said[-1] == "evaluation loss after the last update, 3 seeds"

    apart = table_lines(listed, [row, dataclasses.replace(row, comparable=False)])
    assert apart[-2:] == ["evaluation loss after the last update, 3 seeds", cli_sweep.OTHER_TOKENS]


def test_finetuning_compares_all_weights_with_adapters_each_at_its_own_rate(settings):
    config = settings_from(settings / "my.toml", ["training.learning_rate=1e-3"])
    shape = chosen_shape(config.model.path)
    made = new_sweep(config, shape, over="finetuning", seeds=(0, 1), runs_dir=settings / "runs")
    every, lora, qlora = (with_changes(config, point.changes) for point in made.points[:3])
    assert [item.training.learning_rate for item in (every, lora, qlora)] == [1e-4, 1e-3, 1e-3]
    assert [item.model.quantization for item in (every, lora, qlora)] == ["none", "none", "nf4"]
    assert [item.trains_all for item in (every, lora, qlora)] == [True, False, False]
    assert {item.training.seed for item in (every, lora, qlora)} == {0}
    assert made.points[0].parameters == shape.parameters != made.points[1].parameters
    assert made.labels[0] == "all weights, lr 0.0001"

    chosen = new_sweep(config, shape, over="finetuning", rate_of_all=2e-5, runs_dir=settings / "runs")
    assert chosen.points[0].changes["training.learning_rate"] == 2e-5


def test_settings_that_train_all_weights_give_the_adapters_a_higher_rate(settings):
    changes = ["training.finetuning=full", "model.quantization=none", "training.learning_rate=3e-5"]
    config = settings_from(settings / "my.toml", changes)
    shape = chosen_shape(config.model.path)
    made = new_sweep(config, shape, over="finetuning", runs_dir=settings / "runs")
    rates = [with_changes(config, point.changes).training.learning_rate for point in made.points]
    assert rates == [3e-5, 3e-4, 3e-4]

    chosen = new_sweep(config, shape, over="finetuning", rate_of_all=2e-5, runs_dir=settings / "runs")
    assert [point.changes["training.learning_rate"] for point in chosen.points] == [2e-5, 3e-4, 3e-4]


def test_ranks_of_settings_without_an_adapter_are_refused(settings, capsys):
    full = ("--set", "training.finetuning=full", "--set", "model.quantization=none")
    assert sweep("my.toml", *full, "--over", "ranks", "--out", "mine") == 2
    assert "changes nothing" in capsys.readouterr().err
    assert sweep("my.toml", "--over", "ranks", "--full-rate", "1e-5", "--out", "mine") == 2
    assert "--full-rate belongs to --over finetuning" in capsys.readouterr().err
