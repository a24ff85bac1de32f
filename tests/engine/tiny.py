"""Tiny random models, rows and runs: real folders that the engine opens like any other."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.data.prepared import EncodedSample, PreparedInfo, PreparedWriter
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.engine import attention
from qlora_studio.engine.device import Device
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.training_job import run_training
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import StepFinished
from qlora_studio.runs.folder import create_run
from qlora_studio.runs.less_memory import Way
from qlora_studio.runs.run_record import Hashes, Prepared, RunRecord

E = TypeVar("E")
L = TypeVar("L")

VOCAB = 96
CPU = Device(torch.device("cpu"), "test", 8 << 30)

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0}

# What a family needs beside the usual sizes.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 8},
    "gemma": {},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2},
    "phi": _NO_DROPOUT,
    "phi3": {**_NO_DROPOUT, "sliding_window": 8},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, **_NO_DROPOUT, "attn_pdrop": 0.0},
    "gpt_neox": {"rotary_pct": 0.5},
    "smollm3": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 8},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0},
    "stablelm": {},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 8, "sliding_window_pattern": 2},
    "exaone4": {"sliding_window": 8},
    "starcoder2": {"residual_dropout": 0.0, "embedding_dropout": 0.0},
}


def make_model(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A folder as transformers writes it, with a tokenizer of single letters."""
    values = {} if family == "gpt2" else dict(_SIZES)
    if family in ("phi", "gpt_neox", "stablelm", "starcoder2", "cohere", "cohere2", "olmo", "olmo2", "olmo3"):
        values.pop("head_dim")
    values |= {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, **FAMILIES[family], **changes}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**values), dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)  # as made they hardly differ from zero, and any mistake would stay small
    model.save_pretrained(folder)
    letters = {"<pad>": 0, "<s>": 1, "</s>": 2} | {chr(64 + i): i for i in range(3, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def model_with_its_own_head(folder: Path) -> Path:
    """Its config.json calls head and embedding tied."""
    make_model(folder, tie_word_embeddings=False)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"tie_word_embeddings": True}))
    return folder


def tiny_llama(**changes: Any) -> PreTrainedModel:
    """In memory, random, with our attention; `changes` to its config."""
    attention.register()
    torch.manual_seed(0)
    sizes = {name: _SIZES[name] for name in _LLAMA_SIZES}
    return LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation=attention.IMPLEMENTATION, **changes))


def make_rows(count: int, seed: int = 0, longest: int = 24, learn_all: bool = False) -> list[TokenizedRow]:
    """Rows of unequal length; the second half of each is learned."""
    random = np.random.default_rng(seed)
    rows = []
    for row in range(count):
        length = int(random.integers(4, longest + 1))
        ids = random.integers(3, VOCAB, length).astype(np.int32)
        weights = np.ones(length, np.float32)
        weights[: 1 if learn_all else length // 2] = 0
        rows.append(TokenizedRow(row, ids, weights))
    return rows


def make_run(
    home: Path,
    model: Path,
    rows: list[TokenizedRow] | None = None,
    validation: list[TokenizedRow] | None = None,
    samples: tuple[EncodedSample, ...] = (),
    device: str = "cpu",
    **changes: Any,
) -> Path:
    """A run folder that the engine can train; `changes` are dotted keys with `__` for the dot."""
    settings = {
        "model.path": str(model),
        "model.compute_dtype": "float32",
        "data.seq_len": 32,
        "lora.r": 4,
        "training.batch_size": 2,
        "training.gradient_accumulation": 2,
        "training.learning_rate": 1e-2,
        "training.recompute": "none",
        "checkpoints.every_steps": 2,
        "checkpoints.evaluate_every_steps": 2,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    config = with_changes(RunConfig(), settings)
    rows = make_rows(24) if rows is None else rows
    validation = make_rows(5, seed=1) if validation is None else validation
    prepared = _prepare(
        home / "prepared" / f"{len(list(home.glob('prepared/*')))}", rows, validation, samples, config
    )
    record = RunRecord(
        name="tiny",
        created=1_795_000_000.0,
        config=config,
        model_folder=str(model),
        device=device,
        hashes=Hashes(model="m", data="d"),
        prepared=Prepared(folder=str(prepared)),
    )
    return create_run(home / "runs", record)


def events_of(
    run: Path,
    wish: Wish = Wish.NOTHING,
    after_step: int = 0,
    once: bool = False,
    holder: ModelHolder | None = None,
    ways: tuple[Way, ...] = (),
) -> list[Any]:
    """All events of a sitting; `wish` is said once update number `after_step` is made."""
    events: list[Any] = []
    said = False

    def wished() -> Wish:
        nonlocal said
        if len(of_kind(events, StepFinished)) < after_step or (once and said):
            return Wish.NOTHING
        said = True
        return wish

    for event in run_training(run, holder or ModelHolder(CPU), wished, ways):
        events.append(event)
    return events


def of_kind(events: list[Any], kind: type[E]) -> list[E]:
    """The events of one kind, in order."""
    return [event for event in events if isinstance(event, kind)]


def losses(events: list[Any]) -> list[float]:
    """Of the updates, in order; NaN where one wasn't finite."""
    found = of_kind(events, StepFinished)
    return [float("nan") if step.loss is None else step.loss for step in found]


def loaded(loading: Generator[Any, None, L]) -> L:
    """What a loading that tells its progress gives in the end."""
    while True:
        try:
            next(loading)
        except StopIteration as done:
            return cast(L, done.value)


def _prepare(
    folder: Path,
    rows: list[TokenizedRow],
    validation: list[TokenizedRow],
    samples: tuple[EncodedSample, ...],
    config: RunConfig,
) -> Path:
    with PreparedWriter(folder) as writer:
        for row in rows:
            writer.add(row, held_out=False)
        for row in validation:
            writer.add(row, held_out=True)
        writer.finish(
            PreparedInfo(
                content_sha256=writer.content_sha256(),
                data_sha256="d",
                tokenizer_sha256="t",
                template_sha256="",
                seq_len=config.data.seq_len,
                pad_id=0,
                eos_id=2,
                stop_ids=(2,),
                vocab_size=VOCAB,
                train_rows=writer.train.rows,
                validation_rows=writer.validation.rows,
                train_tokens=writer.train.tokens,
                train_learned_tokens=writer.train.learned_tokens,
                validation_learned_tokens=writer.validation.learned_tokens,
                longest=writer.train.longest,
                too_long_dropped=0,
                too_long_cut=0,
                nothing_to_learn=0,
                not_rendered=0,
                special_in_text=0,
                rows_on_both_sides=0,
                samples=samples,
            )
        )
    return folder
