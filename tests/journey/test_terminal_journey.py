"""The same journey in a terminal: real subprocesses, the JSON and the exit statuses that scripts rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.reader.whole_model import whole_model

SETTINGS = """
[data]
path = "sums.jsonl"
seq_len = 64
[lora]
r = 4
[training]
steps = 3
batch_size = 1
gradient_accumulation = 1
learning_rate = 1e-3
[checkpoints]
every_steps = 2
evaluate_every_steps = 0
"""

# What scripts may rely on.
DATA_KEYS = {
    *("rows_in", "imported", "skipped", "merged", "format", "encoding", "sha256"),
    *("problems", "findings", "lengths", "rows"),
}
MODEL_KEYS = {"family", "parameters", "tensors", "template_sha256", "warnings", "needs_gib"}
VERIFIED_KEYS = {"with", "prompts", "token_agreement", "mean_kl", "max_logprob_drift"}


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qlora_studio", *words],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def answer(*words: str) -> dict[str, Any]:
    """The last JSON line of a command that must end well."""
    done = command(*words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def settings(tmp_path: Path, sums: Path) -> str:
    """A file of settings beside the data that it names."""
    file = tmp_path / "run.toml"
    file.write_text(SETTINGS, "utf-8")
    return str(file)


@pytest.fixture
def tiny(settings: str, tmp_path: Path) -> tuple[str, ...]:
    """Words of a command that trains a model of a few thousand weights: this isn't about what it learns."""
    model = whole_model(tmp_path / "tiny")
    return ("train", settings, "--json", "--set", f"model.path={model}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_job_from_data_to_export(sample_home: Path, settings: str, tmp_path: Path):
    doctor = answer("doctor")
    assert {"Python", "torch", "runs folder", "sample model"} <= {line["name"] for line in doctor["lines"]}
    data = answer("data", "sample", "--model", "sample", "--seq-len", "128", "--show", "1")
    assert data.keys() >= DATA_KEYS
    assert data["rows_in"] == data["imported"] + data["skipped"] + data["merged"]
    assert {token["fate"] for token in data["rows"][0]["tokens"]} == {"context", "learned"}
    model = answer("model", "sample")
    assert (model["family"], model.keys()) == ("llama", MODEL_KEYS)
    estimate = answer("estimate", settings)
    assert estimate.keys() >= {"parts", "total_gib", "fits", "recompute_layers", "largest"}
    assert sum(estimate["parts"].values()) == pytest.approx(estimate["total_gib"])

    finished = answer("train", settings)
    assert (finished["type"], finished["state"], finished["step"]) == ("run_finished", "finished", 3)
    run = finished["run"]
    assert answer("runs")["runs"][0]["state"] == "finished"
    check = answer("runs", "check", run)
    assert check.keys() == {"run", "state", "step", "checkpoints", "warnings"}
    assert [(item["step"], item["sound"]) for item in check["checkpoints"]] == [(2, True), (3, True)]

    reply = answer("chat", run, "--prompt", "What is 2 + 3?", "--greedy", "--max-tokens", "6")
    assert reply.keys() == {"reply", "tokens", "tokens_per_second"}
    assert reply["tokens"] <= 6 and reply["reply"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "What is 2 + 3?", "answer": "5"}\n', "utf-8")
    evaluated = answer("evaluate", run, "--on", str(rows))
    assert evaluated.keys() >= {"loss", "perplexity", "accuracy", "rows"}
    assert evaluated["rows"] == 1
    exported = answer("export", run, "--to", "adapter", "--out", str(tmp_path / "out"))
    assert "adapter_model.safetensors" in exported["files"]
    assert exported["verified"].keys() >= VERIFIED_KEYS
    assert exported["verified"]["token_agreement"] == 1.0
    again = command("export", run, "--to", "adapter", "--out", str(tmp_path / "out"))
    assert (again.returncode, "Traceback" in again.stderr) == (2, False)
    assert str(tmp_path / "out") in again.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_engine_was_killed_goes_on_from_its_checkpoint(tiny: tuple[str, ...]):  # R4
    process = subprocess.Popen(
        [sys.executable, "-m", "qlora_studio", *tiny, "--set", "training.steps=4"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    run, kinds = "", []
    for line in process.stdout:
        event = json.loads(line)
        kinds.append(event["type"])
        run = event["run"] if event["type"] == "run_started" else run
        if event["type"] == "checkpoint_saved":
            break
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    last = json.loads(told.splitlines()[-1])
    assert (last["type"], last["cause"]) == ("run_failed", "died")
    assert "resume" in last["error"]["hint"]
    assert answer("runs", run)["state"] == "interrupted"

    resumed = command("resume", run, "--json")
    events = [json.loads(line) for line in resumed.stdout.splitlines()]
    assert [event["type"] for event in events[:1]] == ["engine_ready"] == kinds[:1]
    started = next(event for event in events if event["type"] == "run_started")
    assert (started["step"], started["resumed"]) == (2, True)
    assert (events[-1]["type"], events[-1]["step"]) == ("run_finished", 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_command_was_killed_goes_on_once_its_engine_has_saved(
    tiny: tuple[str, ...],
):  # R4, R7, R8
    process = subprocess.Popen(
        [sys.executable, "-m", "qlora_studio", *tiny, "--set", "training.steps=5000"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    events = map(json.loads, process.stdout)
    run = next(event["run"] for event in events if event["type"] == "run_started")
    next(event for event in events if event["type"] == "step_finished")
    (engine,) = psutil.Process(process.pid).children()
    engine.suspend()  # in the middle of a step, as if that took long
    process.kill()
    process.wait()

    early = command("resume", run)

    engine.resume()
    engine.wait(60)
    assert early.returncode == 2
    assert "is open elsewhere" in early.stderr
    assert "the step in hand is still finished and saved: try again in a moment" in early.stderr
    left = answer("runs", "check", run)
    assert left["state"] == "paused"
    assert left["checkpoints"][-1] == {"step": left["step"], "sound": True, "reason": ""}
    again = subprocess.Popen(
        [sys.executable, "-m", "qlora_studio", "resume", run, "--json"], stdout=subprocess.PIPE, text=True
    )
    assert again.stdout is not None
    for event in map(json.loads, again.stdout):
        if event["type"] == "run_started":
            assert (event["step"], event["resumed"]) == (left["step"], True)
            os.kill(again.pid, signal.SIGINT)
    assert again.wait(60) == 130


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_saves_and_ends_with_130(tiny: tuple[str, ...]):  # R4
    process = subprocess.Popen(
        [sys.executable, "-m", "qlora_studio", *tiny, "--set", "training.steps=5000"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["type"] == "step_finished" and events[-1]["step"] == 1:
            os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert (events[-1]["type"], events[-1]["state"]) == ("run_finished", "stopped")
    assert any(event["type"] == "checkpoint_saved" for event in events)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """One of each kind of bad input, by name."""
    folder = tmp_path / "bad"
    (folder / "no-weights").mkdir(parents=True)
    (folder / "no-weights" / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    (folder / "cut").mkdir()
    (folder / "cut" / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    (folder / "cut" / "model.safetensors").write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    whole_model(folder / "short")
    weights = (folder / "short" / "model.safetensors").read_bytes()
    (folder / "short" / "model.safetensors").write_bytes(weights[:-100])
    whole_model(folder / "template", template="{{ raise_exception('no turns') }}")
    (folder / "template.toml").write_text(
        f"[model]\npath = {str(folder / 'template')!r}\n[data]\nseq_len = 64\n", "utf-8"
    )
    (folder / "empty.jsonl").touch()
    (folder / "binary.jsonl").write_bytes(bytes(range(256)) * 20)
    (folder / "cut.json").write_text('[{"question": "a", "answer": "b"}, {"quest', "utf-8")
    (folder / "latin.csv").write_bytes(b"question,answer\ncaf\xe9,b\n")
    (folder / "range.toml").write_text("[lora]\nr = 0\n", "utf-8")
    (folder / "dpo.toml").write_text('[training]\nmethod = "dpo"\n', "utf-8")  # on data without pairs
    return folder


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("model", "no-weights"), "no-weights"),
        (("model", "cut"), "model.safetensors"),
        (("model", "short"), "model.safetensors"),
        (("model", "nowhere"), "nowhere"),
        (("train", "template.toml"), "template"),
        (("data", "empty.jsonl"), "empty.jsonl"),
        (("data", "binary.jsonl"), "binary.jsonl"),
        (("data", "cut.json"), "cut.json"),
        (("data", "latin.csv"), "line 2"),
        (("train", "range.toml"), "lora.r"),
        (("train", "dpo.toml"), "without a worse answer"),
        (("train", "nothing.toml"), "nothing.toml"),
        (("runs", "check", "no-weights"), "run.json"),
        (("resume", "no-weights"), "run.json"),
    ],
)
def test_bad_input_is_refused_by_name_without_a_traceback(
    bad: Path, words: tuple[str, ...], named: str
):  # R16
    paths = [
        str(bad / word) if (bad / word).exists() or "." in word or word == "nowhere" else word
        for word in words
    ]

    plain, as_json = command(*paths), command(*paths, "--json")

    assert (plain.returncode, as_json.returncode) == (2, 2)
    assert named in plain.stderr and "Traceback" not in plain.stderr
    assert named in json.loads(as_json.stdout)["error"]["message"]
