"""The whole job on a card, as in a terminal: train, be killed, resume, chat, export the adapter.

    python -m tests.benchmarks.whole_job_card --shape llama-3.1-8b --tokenizer FOLDER

Makes an ordinary model folder with random 16-bit weights of a known shape; tokenizer and template come from
FOLDER (a small real model). The data is the bundled sample.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GIB = 2**30
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def main() -> None:
    arguments = _arguments()
    home = Path(tempfile.mkdtemp(prefix="whole-job-", dir=arguments.scratch))
    os.environ["QLORA_STUDIO_HOME"] = str(home / "home")
    started = time.monotonic()
    model = home / "model"
    size = make_model(model, arguments.shape, arguments.tokenizer)
    _say(f"model folder of {size / 1e9:.1f} GB written", started)
    _say_json("model", _command("model", str(model), "--json")[-1])
    settings = home / "run.toml"
    settings.write_text(
        f'[model]\npath = "{model}"\n[data]\nseq_len = {arguments.seq_len}\n'
        "[training]\nsteps = 12\nbatch_size = 4\ngradient_accumulation = 1\n"
        "[checkpoints]\nevery_steps = 4\nevaluate_every_steps = 6\n",
        "utf-8",
    )
    if arguments.unbroken:
        events = _command("train", str(settings), "--set", "training.steps=4", "--json")
        run = events[-1]["run"]
    else:
        run = train_and_kill(settings, after_step=6)
        _say("killed after step 6", started)
        _say_json("runs check", _command("runs", "check", run, "--json")[-1])
        events = _command("resume", run, "--json")
    _tell_training(events)
    _say("trained to the end", started)
    for words in (["--adapter", f"{run}/adapter"], []):
        reply = _command(
            "chat", str(model), *words, "--prompt", "2 + 2?", "--greedy", "--max-tokens", "64", "--json"
        )[-1]
        print(
            f"chat {'tuned' if words else 'base'}: {reply['tokens']} tokens, "
            f"{reply['tokens_per_second']:.1f} tokens/s"
        )
    exported = _command("export", run, "--to", "adapter", "--out", str(home / "out"), "--json")[-1]
    _say_json("export", exported)
    _say("done", started)
    shutil.rmtree(home)


def make_model(folder: Path, shape: str, tokenizer: Path, layers: int = 0) -> int:
    """Random bf16 weights in shards, a shard a layer. Returns bytes. layers: if not the shape's own."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    values = json.loads((Path(__file__).parents[2] / "resources/shapes" / f"{shape}.json").read_text("utf-8"))
    values.pop("model_type", None)
    values["num_hidden_layers"] = layers or values["num_hidden_layers"]
    config = LlamaConfig(**values, torch_dtype="bfloat16")
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shards: dict[str, dict[str, torch.Tensor]] = {}
    folder.mkdir(parents=True)
    index, total = {}, 0
    for name, parameter in model.state_dict().items():
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        parts = name.split(".")
        shard = f"layer-{int(parts[2]):03d}.safetensors" if parts[1] == "layers" else "rest.safetensors"
        shards.setdefault(shard, {})[name] = parameter
        index[name] = shard
    for shard, tensors in shards.items():
        made = {}
        for name, tensor in tensors.items():
            random = torch.ones(tensor.shape, dtype=torch.bfloat16, device=device)
            made[name] = (random if tensor.dim() == 1 else random.normal_(0, 0.02)).cpu()
            total += made[name].numel() * 2
        save_file(made, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}), "utf-8"
    )
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "llama"}), "utf-8")
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, folder / name)
    return total


def train_and_kill(settings: Path, after_step: int) -> str:
    """SIGKILL for the command and its engine in the middle of training. Returns the run's folder."""
    command = [sys.executable, "-m", "qlora_studio", "train", str(settings), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    run, events = "", []
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        events.append(event)
        if event["type"] == "run_started":
            run = event["run"]
        if event["type"] in ("run_failed", "error") or "error" in event:
            raise SystemExit(f"train failed: {event}")
        if event["type"] == "step_finished" and event["step"] == after_step:
            break
    _tell_training(events)
    import psutil

    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return run


def _tell_training(events: list[dict[str, Any]]) -> None:
    for event in events:
        match event["type"]:
            case "model_loaded":
                print(
                    f"  loaded in {event['seconds']:.1f} s, {event['compute_dtype']}, notes {event['notes']}"
                )
            case "run_started":
                print(
                    f"  starts after step {event['step']} of {event['total_steps']}, "
                    f"resumed {event['resumed']}"
                )
            case "step_finished":
                gib = sum(event["memory"].values()) / GIB
                speed = f"{event['tokens_per_second']:,.0f} tokens/s"
                print(f"  step {event['step']:3} loss {event['loss']:.3f} {speed}, {gib:.1f} GiB")
            case "evaluation_finished":
                print(f"  step {event['step']:3} evaluation loss {event['loss']:.3f}")
            case "run_finished":
                print(f"  {event['state']} at step {event['step']}")


def _command(*words: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "qlora_studio", *words]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        log = "".join(
            path.read_text("utf-8")[-2000:] for path in Path(os.environ["QLORA_STUDIO_HOME"]).rglob("*.log")
        )
        raise SystemExit(
            f"{words} ended with {finished.returncode}: {finished.stdout[-2000:]}{finished.stderr}\n{log}"
        )
    return [json.loads(line) for line in finished.stdout.splitlines()]


def _say(words: str, started: float) -> None:
    print(f"[{time.monotonic() - started:5.0f} s] {words}", flush=True)


def _say_json(words: str, value: dict[str, Any]) -> None:
    print(f"{words}: {json.dumps(value)[:600]}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--unbroken", action="store_true", help="4 steps without a kill: for chat and export")
    parser.add_argument("--scratch", type=Path, default=None, help="where the model folder is made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
