"""Replies on a card: the engine's chat against transformers' `generate` with peft and bitsandbytes.

    python -m tests.benchmarks.decode --shape llama-3.1-8b --prompt 128 --tokens 256
    python -m tests.benchmarks.decode --shape llama-3.1-8b --side ours --side-by-side 4 --prefill 4096

Weights are random; an adapter of r = 16 on all linear layers is on, one text at a time, greedy. The floor is
what reading each weight once takes at the rate at which the card copies memory. `--side-by-side N` also lets
the base and N - 1 adapters answer at once. `--prefill N` reads a prompt of N tokens: its share is that of the
rate at which the card multiplies large matrices.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from tests.benchmarks.machine import copy_rate, machine, matrix_rate
from tests.benchmarks.train import _random_llama

RANK = 16


def main() -> None:
    arguments = _arguments()
    if arguments.side == "plain":
        print(json.dumps(plain(arguments)))
        return
    print(machine(), flush=True)
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
    _add_adapter(adapted, "random")
    adapted.add_from = lambda folder: str(folder)  # it is there already: there is no folder of random weights
    vocabulary = adapted.causal_lm.config.vocab_size

    def ask(adapter: str | None, tokens: int, prompt: int) -> Generate:
        ids = tuple(torch.randint(0, vocabulary, (prompt,)).tolist())
        sampling = Sampling(greedy=True, max_tokens=tokens)
        return Generate(id=1, prompt_ids=ids, adapter=adapter, sampling=sampling)

    asked = ask("random", arguments.tokens, arguments.prompt)
    finished = [list(chat.answer(asked, lambda: False))[-1] for _ in range(arguments.replies)]
    for reply in finished:
        print(
            f"reply: {reply.tokens_per_second:.1f} tokens/s, first after {reply.first_token_seconds:.3f} s",
            flush=True,
        )
    last = finished[-1]
    if arguments.side_by_side:
        names = ["random", *(f"random {number}" for number in range(2, arguments.side_by_side))]
        for name in names[1:]:
            _add_adapter(adapted, name)
        asked_of = [ask(name, arguments.tokens, arguments.prompt) for name in (None, *names)]
        _side_by_side(chat, asked_of, last.tokens_per_second, arguments.replies)
    if arguments.prefill:
        _prefill(chat, ask("random", 1, arguments.prefill), adapted)
    return {
        "tokens_per_second": last.tokens_per_second,
        "first": last.first_token_seconds,
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else float("nan"),
        **_floor(adapted.base.weight_bytes, adapted.causal_lm),
    }


def _add_adapter(adapted, name: str) -> None:  # type: ignore[no-untyped-def]
    from qlora_studio.config.run_config import LoraConfig

    adapted.add_new(name, LoraConfig(r=RANK), seed=0)
    for _, parameter in adapted.trained_parameters(name):
        parameter.data.normal_(0, 0.01)


def _side_by_side(chat, asked, alone: float, rounds: int) -> None:  # type: ignore[no-untyped-def]
    """The base and some adapters at once; the last round finds everything compiled."""
    from msgspec.structs import replace

    from qlora_studio.protocol.events import GenerationFinished

    asked = [replace(command, id=number) for number, command in enumerate(asked)]
    for _ in range(rounds):
        start = time.monotonic()
        events = list(chat.answer_each(asked, lambda _: False))
        seconds = time.monotonic() - start
        replies = [event for event in events if isinstance(event, GenerationFinished)]
        together = sum(reply.tokens_per_second for reply in replies)
        print(
            f"{len(asked)} side by side: {together:.1f} tokens/s, {together / alone:.2f} x one alone; "
            f"{sum(reply.tokens for reply in replies)} tokens in {seconds:.2f} s, first ones after "
            f"{max(reply.first_token_seconds for reply in replies):.3f} s",
            flush=True,
        )


def _prefill(chat, asked, adapted) -> None:  # type: ignore[no-untyped-def]
    """A prompt's way to the logits after it; its share of what the card multiplies in that time."""
    import statistics

    import torch

    from qlora_studio.engine.continuation import Continuation, KeptSteps

    tokens, model, kept = len(asked.prompt_ids), adapted.causal_lm, KeptSteps()
    adapted.use(asked.adapter)
    taken = []
    for _ in range(7):
        text = Continuation(model, kept)
        start = time.monotonic()
        text.extend(asked.prompt_ids)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.monotonic() - start)
    seconds = statistics.median(taken[2:])
    kept.forget()
    first = [list(chat.answer(asked, lambda: False))[-1].first_token_seconds for _ in range(3)][-1]
    operations = _operations(model, tokens)
    rate = matrix_rate()
    print(
        f"prefill of {tokens} tokens: {seconds * 1e3:.1f} ms "
        f"({min(taken) * 1e3:.1f} to {max(taken) * 1e3:.1f}), first token of a reply {first:.3f} s, "
        f"{tokens / seconds:,.0f} tokens/s, {operations / seconds / 1e12:.0f} TFLOP/s; "
        f"{operations / seconds / rate:.2f} of {rate / 1e12:.0f}",
        flush=True,
    )


def _operations(model, tokens: int) -> float:  # type: ignore[no-untyped-def]
    """Of the layers' products and of causal attention; without the adapter's and the head's."""
    import bitsandbytes as bnb

    config = model.config
    weights = sum(
        layer.in_features * layer.out_features
        for layer in model.modules()
        if isinstance(layer, bnb.nn.Linear4bit)
    )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 2.0 * tokens**2 * config.num_attention_heads * head_dim * config.num_hidden_layers
    return 2.0 * weights * tokens + attention


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
    embedding = model.get_input_embeddings().weight
    read = weight_bytes - (0 if model.config.tie_word_embeddings else embedding.nbytes)
    return {"bytes": read, "bandwidth": copy_rate()}


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
    parser.add_argument("--side-by-side", type=int, default=0, help="the base and adapters beside it")
    parser.add_argument("--prefill", type=int, default=0, help="tokens of a prompt")
    parser.add_argument("--side", choices=("both", "ours", "plain"), default="both")
    return parser.parse_args()


if __name__ == "__main__":
    main()
