"""Replies on a card: the engine's chat against transformers' `generate` with peft and bitsandbytes.

    python -m tests.benchmarks.decode --shape llama-3.1-8b --prompt 128 --tokens 256

Weights are random; an adapter of r = 16 on all linear layers is on, one text at a time, greedy. The floor is
what reading each weight once takes at the rate at which the card copies memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from tests.benchmarks.train import _random_llama, machine

RANK = 16


def main() -> None:
    arguments = _arguments()
    if arguments.side == "plain":
        print(json.dumps(plain(arguments)))
        return
    rows = [("qlora-studio chat", ours(arguments))]
    if arguments.side == "both":
        rows.insert(0, ("transformers generate + peft + bitsandbytes", _in_child()))
    print(f"\n{machine()}; {arguments.shape}, adapter r = {RANK}, prompt {arguments.prompt} tokens")
    print(f"{'':44} {'tokens/s':>9} {'first token s':>14} {'peak GiB':>9} {'ratio':>6} {'of floor':>9}")
    for name, row in rows:
        ratio = row["tokens_per_second"] / rows[0][1]["tokens_per_second"]
        of_floor = row["tokens_per_second"] * row["bytes"] / row["bandwidth"]
        print(
            f"{name:44} {row['tokens_per_second']:9.1f} {row['first']:14.3f} {row['peak'] / 2**30:9.1f} "
            f"{ratio:6.1f} {of_floor:9.2f}"
        )


def ours(arguments: argparse.Namespace) -> dict[str, float]:
    """By the engine's own chat, twice: the second reply finds everything compiled."""
    import torch

    from qlora_studio.config.run_config import LoraConfig
    from qlora_studio.engine.device import find_device
    from qlora_studio.engine.generation import Chat
    from qlora_studio.engine.model_holder import ModelHolder
    from qlora_studio.protocol.commands import Generate, LoadModel, Sampling

    holder = ModelHolder(find_device())
    chat = Chat(holder)
    for _ in chat.load(LoadModel(id=0, model=f"shape:{arguments.shape}")):
        pass
    adapted = holder.held
    assert adapted is not None
    adapted.add_new("random", LoraConfig(r=RANK), seed=0)
    for _, parameter in adapted.trained_parameters("random"):
        parameter.data.normal_(0, 0.01)
    adapted.add_from = lambda folder: str(folder)  # it is there already: there is no folder of random weights
    prompt = tuple(torch.randint(0, 100_000, (arguments.prompt,)).tolist())
    asked = Generate(
        id=1,
        prompt_ids=prompt,
        adapter="random",
        sampling=Sampling(greedy=True, max_tokens=arguments.tokens),
    )
    finished = [list(chat.answer(asked, lambda: False))[-1] for _ in range(arguments.replies)]
    for reply in finished:
        print(f"reply: {reply.tokens_per_second:.1f} tokens/s, first after {reply.first_token_seconds:.3f} s")
    last = finished[-1]
    return {
        "tokens_per_second": last.tokens_per_second,
        "first": last.first_token_seconds,
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else float("nan"),
        **_floor(adapted.base.weight_bytes, adapted.causal_lm),
    }


def plain(arguments: argparse.Namespace) -> dict[str, float]:
    """As the libraries' own documents say."""
    import torch
    from peft import LoraConfig, get_peft_model

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _random_llama(arguments.shape, device)
    model = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    model = model.eval()
    prompt = torch.randint(0, 100_000, (1, arguments.prompt), device=device)
    tokens = min(arguments.tokens, 64)
    for _ in range(2):
        start = time.monotonic()
        model.generate(input_ids=prompt, max_new_tokens=1, do_sample=False)
        first = time.monotonic() - start
        start = time.monotonic()
        model.generate(
            input_ids=prompt, max_new_tokens=tokens + 1, min_new_tokens=tokens + 1, do_sample=False
        )
        seconds = time.monotonic() - start - first
    return {
        "tokens_per_second": tokens / seconds,
        "first": first,
        "peak": torch.cuda.max_memory_allocated() if device.type == "cuda" else float("nan"),
        "bytes": 0.0,
        "bandwidth": 1.0,
    }


def _floor(weight_bytes: int, model) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """bytes: read for a token, all weights but the embedding's. bandwidth: bytes/s of a large copy."""
    import torch

    embedding = model.get_input_embeddings().weight
    read = weight_bytes - (0 if model.config.tie_word_embeddings else embedding.nbytes)
    if not torch.cuda.is_available():
        return {"bytes": read, "bandwidth": float("nan")}
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(2):
        start.record()
        for _ in range(10):
            target.copy_(source)
        end.record()
        torch.cuda.synchronize()
    return {"bytes": read, "bandwidth": 10 * 2 * source.nbytes / (start.elapsed_time(end) / 1e3)}


def _in_child() -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.decode", "--side", "plain", *sys.argv[1:]]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"plain failed: {finished.stderr[-3000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--replies", type=int, default=2)
    parser.add_argument("--side", choices=("both", "ours", "plain"), default="both")
    return parser.parse_args()


if __name__ == "__main__":
    main()
