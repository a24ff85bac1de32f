"""Training on a card: the `train` command against plain transformers + peft + bitsandbytes, in one run.

    python -m tests.benchmarks.train --shape llama-3.1-8b --rows 4 --seq-len 2048 --steps 12
    python -m tests.benchmarks.train --shape llama-3.1-8b --rows 8 --seq-len 512 --set training.fp8=true
    python -m tests.benchmarks.train --shape llama-3.1-8b --rows-like gsm8k

Weights and tokens are random; both sides train r = 64 on all linear layers of an NF4 + DQ base with
PagedAdamW32bit, each in a process of its own, so that neither finds the other's memory. A CPU runs it too.

With `--rows-like gsm8k` rows are as long, and as much of them is learned, as in the first 512 questions of
GSM8K's training file in SmolLM2's chat template. The engine packs them; the plain side pads the rows of a
batch to the longest of them and learns the same rows an update, some at a time (`--plain-rows`).
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
import tomllib
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import machine, matrix_rate

WARM_UP = 3  # steps that aren't counted
GIB = 2**30
LENGTHS = {"gsm8k": Path(__file__).with_name("gsm8k_lengths.json")}  # tokens, learned tokens
EQUAL = "equal"  # all as long as there is room


def main() -> None:
    arguments = _arguments()
    if arguments.run:
        sides = {"ours": unequal_ours, "plain": unequal_plain}
        print(json.dumps(sides[arguments.side](Path(arguments.run), arguments)))
        return
    if arguments.rows_like:
        unequal(arguments)
        return
    if arguments.side == "plain":
        print(json.dumps(plain(arguments)))
        return
    rows = [("qlora-studio train", ours(arguments))]
    if arguments.side == "both":
        rows.insert(0, ("plain transformers + peft + bitsandbytes", _in_child("plain")))
    size = f"{arguments.rows} x {arguments.seq_len}"
    floor = Floor(arguments)
    print(f"\n{machine()}; {arguments.shape}, {size}, r = 64 all-linear, NF4 + DQ; {floor.words}")
    print(
        f"{'':42} {'tokens/s':>9} {'learned/s':>9} {'peak GiB':>9} {'reserved':>9} {'s/step':>7} "
        f"{'ratio':>6} {'of floor':>8}"
    )
    base = rows[0][1]["tokens_per_second"]
    for name, row in rows:
        tokens = row["tokens_per_second"]
        print(
            f"{name:42} {tokens:9,.0f} {row['learned_per_second']:9,.0f} "
            f"{row['peak'] / GIB:9.1f} {row['reserved'] / GIB:9.1f} {row['seconds']:7.3f} "
            f"{tokens / base:6.2f} {tokens / floor.tokens_per_second:8.2f}"
        )


class Floor:
    """What the card would learn in a second if it did nothing but multiply as fast as it multiplies large
    matrices: each frozen weight and the head once forward and once for the gradient of its input, causal
    attention and its gradient. What adapters take isn't in it, nor what is computed again.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Measures it: when nothing else is on the card."""
        from qlora_studio.models.shapes import known_shape

        shape = known_shape(arguments.shape)
        lengths = [length for length, _ in _lengths(arguments)]
        seen = sum(length**2 for length in lengths) / sum(lengths)  # by a token, twice as many as on average
        weights = sum(out * columns for _, out, columns in shape.linears) * shape.layers
        head = shape.vocab_size * shape.hidden_size
        # Two products forward and four in the gradient, of half the scores; flash attention makes one again.
        attention = 6 * seen * shape.heads * shape.head_dim * shape.layers
        self._rate = matrix_rate()
        self.tokens_per_second = self._rate / (4 * (weights + head) + attention)

    @property
    def words(self) -> str:
        """For the line above a table."""
        return f"floor {self.tokens_per_second:,.0f} tokens/s at {self._rate / 1e12:.0f} TFLOP/s"


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
    command += itertools.chain.from_iterable(("--set", change) for change in arguments.set)
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
        "learned_per_second": steps[-1]["learned_tokens"] / per_step,
        "peak": max(sum(step["memory"].values()) - step["memory"]["other"] for step in steps),
        "reserved": max(sum(step["memory"].values()) for step in steps),
        "seconds": per_step,
        "run": events[-1]["run"],
        "home": home,
    }


def unequal(arguments: argparse.Namespace) -> None:
    """Rows of unequal length: learned tokens a second of both sides, each line as soon as it is there."""
    from tests.engine.tiny import make_run

    home = Path(tempfile.mkdtemp(prefix="train-unequal-"))
    changes = (change.partition("=") for change in arguments.set)
    run = make_run(
        home,
        Path(f"shape:{arguments.shape}"),
        **{key.replace(".", "__"): _read(value) for key, _, value in changes},
        rows=_rows_like(arguments),
        validation=[],
        device=_device().type,
        model__compute_dtype="auto",
        data__seq_len=arguments.seq_len,
        lora__r=64,
        lora__alpha=16,
        training__batch_size=arguments.rows,
        training__gradient_accumulation=1,
        training__steps=arguments.steps,
        training__learning_rate=2e-4,
        training__recompute=_recompute(arguments.recompute),
        checkpoints__every_steps=1_000_000,
        checkpoints__evaluate_every_steps=0,
    )
    print(
        f"\n{machine()}; {arguments.shape}, rows as of {arguments.rows_like}, packed into {arguments.rows} x "
        f"{arguments.seq_len}, r = 64 all-linear, NF4 + DQ",
        flush=True,
    )
    print(
        f"{'':42} {'learned/s':>9} {'tokens/s':>9} {'computed':>9} "
        f"{'peak GiB':>8} {'reserved':>8} {'s/update':>8} {'ours by':>7} {'of floor':>8}"
    )
    floor = Floor(arguments)
    measured: list[float] = []
    for side in {"ours": ["ours"], "plain": ["plain"], "both": ["ours", "plain"]}[arguments.side]:
        for name, row in _in_child(side, "--run", str(run)).items():
            measured.append(row["learned_per_second"])
            print(
                f"{name:42} {row['learned_per_second']:9,.0f} {row['tokens_per_second']:9,.0f} "
                f"{row['computed_per_second']:9,.0f} {row['peak'] / GIB:8.1f} {row['reserved'] / GIB:8.1f} "
                f"{row['seconds']:8.3f} {measured[0] / measured[-1]:7.2f} "
                f"{row['computed_per_second'] / floor.tokens_per_second:8.2f}",
                flush=True,
            )


def _lengths(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """Tokens and learned tokens of a row, of rows that fit."""
    if arguments.rows_like in (None, EQUAL):
        return [(arguments.seq_len, arguments.seq_len - 1)]
    found = json.loads(LENGTHS[arguments.rows_like].read_text("utf-8"))
    return [(length, learned) for length, learned in found if length <= arguments.seq_len]


def _rows_like(arguments: argparse.Namespace) -> list[Any]:
    """Enough for the updates, of random tokens; what is learned stands at a row's end, as an answer does."""
    import numpy as np

    from qlora_studio.data.tokenized_row import TokenizedRow
    from qlora_studio.models.shapes import known_shape

    random = np.random.default_rng(0)
    vocabulary = known_shape(arguments.shape).vocab_size
    room = arguments.rows * arguments.seq_len * (arguments.steps + 1)
    rows: list[TokenizedRow] = []
    for length, learned in itertools.cycle(_lengths(arguments)):
        if room <= 0:
            return rows
        weights = np.zeros(length, np.float32)
        weights[-learned:] = 1
        rows.append(TokenizedRow(len(rows), random.integers(0, vocabulary, length, dtype=np.int32), weights))
        room -= length
    raise AssertionError("a cycle has no end")


def unequal_ours(run: Path, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The engine's own job, as the `train` command's child does it."""
    from qlora_studio.engine.device import find_device
    from qlora_studio.engine.model_holder import ModelHolder
    from qlora_studio.engine.training_job import run_training
    from qlora_studio.engine.wish import Wish
    from qlora_studio.protocol.events import RunFailed, StepFinished

    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the engine sets it
    steps: list[StepFinished] = []
    for event in run_training(run, ModelHolder(find_device()), lambda: Wish.NOTHING):
        if isinstance(event, RunFailed):
            raise SystemExit(f"train failed: {event}")
        if isinstance(event, StepFinished):
            steps.append(event)
        if len(steps) == arguments.steps:
            break  # what is saved at the end isn't measured
    ends = [step.elapsed_s for step in steps]
    print(f"first step {ends[0]:.1f} s; loss {steps[0].loss:.4f} to {steps[-1].loss:.4f}")
    seconds = [later - earlier for earlier, later in itertools.pairwise(ends)][WARM_UP - 1 :]
    counted = steps[WARM_UP:]
    found = _speeds(
        seconds,
        sum(step.learned_tokens for step in counted),
        sum(step.tokens for step in counted),
        arguments.rows * arguments.seq_len * len(counted),
    )
    found["reserved"] = max(sum(step.memory.values()) for step in steps)
    found["peak"] = max(sum(step.memory.values()) - step.memory["other"] for step in steps)
    return {"qlora-studio, packed": found}


def unequal_plain(run: Path, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The rows of the engine's updates, `--plain-rows` at a time, in the order of the file."""
    import torch

    from qlora_studio.data.packing import plan_epoch
    from qlora_studio.data.prepared import open_prepared
    from qlora_studio.runs.run_record import read_record

    config = read_record(run).record.config
    rows = open_prepared(Path(read_record(run).record.prepared.folder)).train
    plan = plan_epoch(
        rows.lengths,
        seq_len=config.data.seq_len,
        packing=True,
        seed=config.training.seed,
        epoch=0,
        batch_size=config.training.batch_size,
        accumulation=1,
    )
    device = _device()
    stack = _plain_stack(arguments.shape, device)
    # Its kernels need no more than an update to warm up: half as many as ours are enough.
    updates = [[rows[row] for row in sorted(update.rows)] for update in plan[: max(2, arguments.steps // 2)]]
    found = {}
    for count in arguments.plain_rows:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        speeds = _padded(stack, updates, count, device)
        on_card = device.type == "cuda"
        speeds["peak"] = torch.cuda.max_memory_allocated() if on_card else float("nan")
        speeds["reserved"] = torch.cuda.max_memory_reserved() if on_card else float("nan")
        found[f"plain, {count} rows at a time, padded"] = speeds
    return found


def _padded(stack, updates: list[list[Any]], count: int, device) -> dict[str, float]:  # type: ignore[no-untyped-def]
    import torch

    model, trained, optimizer = stack
    seconds, learned, tokens, computed = [], 0, 0, 0
    for number, order in enumerate(updates):
        started = time.monotonic()
        for at in range(0, len(order), count):
            batch = order[at : at + count]
            longest = max(len(row.ids) for row in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.int64)
            labels = torch.full_like(ids, -100)
            mask = torch.zeros_like(ids)
            for y, row in enumerate(batch):
                end = len(row.ids)
                ids[y, :end] = torch.from_numpy(row.ids.astype("int64"))
                labels[y, :end] = torch.where(torch.from_numpy(row.weights > 0), ids[y, :end], -100)
                mask[y, :end] = 1
            with torch.autocast(device.type, torch.bfloat16):
                loss = model(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    labels=labels.to(device),
                    use_cache=False,
                ).loss
            (loss / len(order) * len(batch)).backward()
            if number:
                learned += int((labels[:, 1:] >= 0).sum())
                tokens += int(mask.sum())
                computed += ids.numel()
        _plain_step(trained, optimizer, device)
        if number:
            seconds.append(time.monotonic() - started)
    return _speeds(seconds, learned, tokens, computed)


def _speeds(seconds: list[float], learned: int, tokens: int, computed: int) -> dict[str, float]:
    """Of all updates counted together: they are of unequal size. computed: padding too."""
    return {
        "learned_per_second": learned / sum(seconds),
        "tokens_per_second": tokens / sum(seconds),
        "computed_per_second": computed / sum(seconds),
        "seconds": sum(seconds) / len(seconds),
    }


def _device():  # type: ignore[no-untyped-def]
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _plain_stack(shape: str, device):  # type: ignore[no-untyped-def]
    """As the libraries' own documents say: model, trained parameters, optimizer."""
    import bitsandbytes as bnb
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    model = _random_llama(shape, device)
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
    config = LoraConfig(r=64, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = (bnb.optim.PagedAdamW32bit if device.type == "cuda" else torch.optim.AdamW)(trained, lr=2e-4)
    return model, trained, optimizer


def _plain_step(trained, optimizer, device) -> None:  # type: ignore[no-untyped-def]
    import torch

    torch.nn.utils.clip_grad_norm_(trained, 0.3)
    optimizer.step()
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()


def plain(arguments: argparse.Namespace) -> dict[str, float]:
    """As the libraries' own documents say: prepare_model_for_kbit_training, get_peft_model, a bare loop."""
    import torch

    device = _device()
    model, trained, optimizer = _plain_stack(arguments.shape, device)
    vocabulary = model.config.vocab_size
    seconds = []
    for step in range(arguments.steps):
        ids = torch.randint(0, vocabulary, (arguments.rows, arguments.seq_len), device=device)
        started = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        _plain_step(trained, optimizer, device)
        if step >= WARM_UP:
            seconds.append(time.monotonic() - started)
    per_step = statistics.median(seconds)
    on_card = device.type == "cuda"
    return {
        "tokens_per_second": arguments.rows * arguments.seq_len / per_step,
        "learned_per_second": arguments.rows * (arguments.seq_len - 1) / per_step,
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


def _in_child(side: str, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.train", *sys.argv[1:], "--side", side, *more]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{side} failed: {finished.stderr[-3000:]}")
    *told, last = finished.stdout.splitlines()
    print("".join(f"{line}\n" for line in told), end="", flush=True)
    found: dict[str, Any] = json.loads(last)
    return found


def _recompute(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _read(text: str) -> Any:
    """A value as a TOML file has it, or a word."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--recompute", default="auto")
    parser.add_argument("--set", action="append", default=[], help="of ours, as `train` takes it")
    parser.add_argument("--side", choices=("both", "ours", "plain"), default="both")
    parser.add_argument("--rows-like", choices=(*LENGTHS, EQUAL), help="prepared rows of these lengths")
    parser.add_argument("--plain-rows", type=int, nargs="+", default=[8, 16], help="that are padded together")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
