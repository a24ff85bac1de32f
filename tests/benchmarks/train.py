"""Training on a card: the `train` command against plain transformers + peft + bitsandbytes, in one run.

    python -m tests.benchmarks.train --shape llama-3.1-8b --rows 4 --seq-len 2048 --steps 12

Weights and tokens are random; both sides train r = 64 on all linear layers of an NF4 + DQ base with
PagedAdamW32bit, each in a process of its own, so that neither finds the other's memory. A CPU runs it too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP = 3  # steps that aren't counted
GIB = 2**30


def main() -> None:
    arguments = _arguments()
    if arguments.side == "plain":
        print(json.dumps(plain(arguments)))
        return
    rows = [("qlora-studio train", ours(arguments))]
    if arguments.side == "both":
        rows.insert(0, ("plain transformers + peft + bitsandbytes", _in_child(arguments)))
    size = f"{arguments.rows} x {arguments.seq_len}"
    print(f"\n{machine()}; {arguments.shape}, {size}, r = 64 all-linear, NF4 + DQ")
    print(f"{'':42} {'tokens/s':>9} {'peak GiB':>9} {'reserved':>9} {'s/step':>7} {'ratio':>6}")
    base = rows[0][1]["tokens_per_second"]
    for name, row in rows:
        print(
            f"{name:42} {row['tokens_per_second']:9,.0f} {row['peak'] / GIB:9.1f} "
            f"{row['reserved'] / GIB:9.1f} {row['seconds']:7.3f} {row['tokens_per_second'] / base:6.2f}"
        )


def ours(arguments: argparse.Namespace) -> dict[str, float]:
    """The command as a person gives it."""
    home = tempfile.mkdtemp(prefix="train-card-")
    environment = os.environ | {"QLORA_STUDIO_HOME": home}
    settings = Path(home) / "run.toml"
    settings.write_text(
        f'[model]\npath = "shape:{arguments.shape}"\n[data]\nseq_len = {arguments.seq_len}\nvalidation = 0\n'
        f"[training]\nbatch_size = {arguments.rows}\ngradient_accumulation = 1\nsteps = {arguments.steps}\n"
        f"recompute = {json.dumps(_recompute(arguments.recompute))}\n[checkpoints]\nevery_steps = 1000000\n",
        "utf-8",
    )
    command = [sys.executable, "-m", "qlora_studio", "train", str(settings), "--json"]
    started = time.monotonic()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    events = [json.loads(line) for line in finished.stdout.splitlines()]
    if finished.returncode or not events or events[-1]["type"] != "run_finished":
        log = "".join(path.read_text("utf-8")[-3000:] for path in Path(home).rglob("engine.log"))
        raise SystemExit(f"train failed: {finished.stdout[-2000:]}\n{finished.stderr[-2000:]}\n{log}")
    steps = [event for event in events if event["type"] == "step_finished"]
    loaded = next(event for event in events if event["type"] == "model_loaded")
    whole = time.monotonic() - started
    print(f"loaded in {loaded['seconds']:.1f} s; whole command {whole:.0f} s; notes {loaded['notes']}")
    parts = {part: round(size / GIB, 2) for part, size in steps[-1]["memory"].items()}
    print(f"memory by part, GiB: {parts}")
    ends = [step["elapsed_s"] for step in steps]
    seconds = [later - earlier for earlier, later in itertools.pairwise(ends)]
    counted = seconds[WARM_UP:]
    print(f"first step {ends[0]:.1f} s; loss {steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}")
    per_step = statistics.median(counted)
    return {
        "tokens_per_second": steps[-1]["tokens"] / per_step,
        "peak": max(sum(step["memory"].values()) - step["memory"]["other"] for step in steps),
        "reserved": max(sum(step["memory"].values()) for step in steps),
        "seconds": per_step,
        "run": events[-1]["run"],
        "home": home,
    }


def plain(arguments: argparse.Namespace) -> dict[str, float]:
    """As the libraries' own documents say: prepare_model_for_kbit_training, get_peft_model, a bare loop."""
    import bitsandbytes as bnb
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _random_llama(arguments.shape, device)
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
    config = LoraConfig(r=64, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = (bnb.optim.PagedAdamW32bit if device.type == "cuda" else torch.optim.AdamW)(trained, lr=2e-4)
    vocabulary = model.config.vocab_size
    seconds = []
    for step in range(arguments.steps):
        ids = torch.randint(0, vocabulary, (arguments.rows, arguments.seq_len), device=device)
        started = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step >= WARM_UP:
            seconds.append(time.monotonic() - started)
    per_step = statistics.median(seconds)
    on_card = device.type == "cuda"
    return {
        "tokens_per_second": arguments.rows * arguments.seq_len / per_step,
        "peak": torch.cuda.max_memory_allocated() if on_card else float("nan"),
        "reserved": torch.cuda.max_memory_reserved() if on_card else float("nan"),
        "seconds": per_step,
    }


def _random_llama(shape: str, device):  # type: ignore[no-untyped-def]
    """NF4 + DQ, made and quantized layer by layer: 16 GB of 16-bit weights never exist."""
    import bitsandbytes as bnb
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.quantization_config import BitsAndBytesConfig

    file = Path(__file__).parents[2] / "resources" / "shapes" / f"{shape}.json"
    values = json.loads(file.read_text("utf-8"))
    values.pop("model_type", None)
    config = LlamaConfig(**values)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16)
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        linear = bnb.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=False,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        weight = (
            torch.randn(module.out_features, module.in_features, device=device, dtype=torch.bfloat16) * 0.02
        )
        linear.weight = bnb.nn.Params4bit(
            weight.cpu() if device.type == "cpu" else weight,
            requires_grad=False,
            quant_type="nf4",
            compress_statistics=True,
        ).to(device)
        setattr(parent, name.rpartition(".")[2], linear)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                fill = torch.ones if parameter.dim() == 1 else torch.zeros
                made = fill(parameter.shape, dtype=torch.bfloat16, device=device)
                if parameter.dim() == 2:
                    made.normal_(0, 0.02)
                setattr(module, name, torch.nn.Parameter(made, requires_grad=False))
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    model.is_loaded_in_4bit = True
    model.is_quantized = True
    model.config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    return model


def _in_child(arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.train", "--side", "plain", *sys.argv[1:]]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"plain failed: {finished.stderr[-3000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def _recompute(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def machine() -> str:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--recompute", default="auto")
    parser.add_argument("--side", choices=("both", "ours", "plain"), default="both")
    return parser.parse_args()


if __name__ == "__main__":
    main()
