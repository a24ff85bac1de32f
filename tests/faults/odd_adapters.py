"""Adapters that are odd but good, and some that only seem to be: see odd_models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


class Adapter:
    """A sound adapter of rank 4 on two layers of the tiny Llama."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        random = np.random.default_rng(1)
        self.tensors: dict[str, np.ndarray] = {}
        for module, (out, inner) in MODULES.items():
            self.tensors[f"base_model.model.{module}.lora_A.weight"] = _floats(random, (4, inner))
            self.tensors[f"base_model.model.{module}.lora_B.weight"] = _floats(random, (out, 4))
        self.said: dict[str, Any] = dict(PEFT_0_17)

    def write(self) -> None:
        """Both files."""
        save_file(self.tensors, self.path / "adapter_model.safetensors", metadata={"format": "pt"})
        (self.path / "adapter_config.json").write_text(json.dumps(self.said))


def _floats(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


MODULES = {"model.layers.0.self_attn.q_proj": (32, 32), "model.layers.1.mlp.down_proj": (32, 48)}
_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
_B = _A.replace("lora_A", "lora_B")

PEFT_0_4: dict[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": "huggyllama/llama-7b",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_alpha": 16.0,
    "lora_dropout": 0.05,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 4,
    "revision": None,
    "target_modules": ["q_proj", "down_proj"],
    "task_type": "CAUSAL_LM",
}
PEFT_0_17: dict[str, Any] = {
    **PEFT_0_4,
    "alpha_pattern": {},
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "layer_replication": None,
    "loftq_config": {},
    "lora_bias": False,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
    "rank_pattern": {},
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}

AdapterChange = Callable[[Adapter], object]


def said(**changes: Any) -> AdapterChange:
    """Keys of adapter_config.json changed, or left out where they are `...`."""

    def change(adapter: Adapter) -> None:
        adapter.said |= changes
        adapter.said = {key: value for key, value in adapter.said.items() if value is not ...}
        adapter.write()

    return change


def said_alone(values: dict[str, Any]) -> AdapterChange:
    """Another adapter_config.json."""

    def change(adapter: Adapter) -> None:
        adapter.said = dict(values)
        adapter.write()

    return change


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> AdapterChange:
    """Tensors changed, left out or added."""
    return lambda adapter: (change(adapter.tensors), adapter.write())


def beside(name: str, content: bytes) -> AdapterChange:
    """A file beside the two, or in the place of one."""
    return lambda adapter: (adapter.path / name).write_bytes(content)


def in_turn(*changes: AdapterChange) -> AdapterChange:
    """One after the other."""
    return lambda adapter: [change(adapter) for change in changes]


def _with_lengths(values: dict[str, np.ndarray]) -> None:
    for module, (out, _) in MODULES.items():
        values[f"base_model.model.{module}.lora_magnitude_vector"] = np.ones(out, np.float32)


def _another_rank(values: dict[str, np.ndarray]) -> None:
    values[_A], values[_B] = np.ones((8, 32), np.float32), np.ones((32, 8), np.float32)


ADAPTERS: Mapping[str, tuple[AdapterChange, str | None]] = {
    "as it is": (said(), None),
    "config of peft 0.4": (said_alone(PEFT_0_4), None),
    "config of a newer peft": (said(peft_version="9.9.9", ensure_weight_tying=False, new_thing=None), None),
    "config of few keys": (said_alone({"peft_type": "LORA", "r": 4, "lora_alpha": 8}), None),
    "config with a byte order mark": (
        lambda adapter: (adapter.path / "adapter_config.json").write_bytes(
            b"\xef\xbb\xbf" + json.dumps(adapter.said).encode()
        ),
        None,
    ),
    "config with a number nobody reads": (said(best_metric=float("nan")), None),
    "rslora": (said(use_rslora=True), None),
    "dora": (in_turn(tensors(_with_lengths), said(use_dora=True)), None),
    "alpha with a point": (said(lora_alpha=0.5), None),
    "target_modules a pattern": (said(target_modules=".*"), None),
    "target_modules all linear": (said(target_modules="all-linear"), None),
    "no base named": (said(base_model_name_or_path=None), None),
    "task type null": (said(task_type=None), None),
    "empty lists of methods": (said(modules_to_save=[], rank_pattern=None, alpha_pattern=None), None),
    "half numbers": (
        tensors(lambda all: all.update({k: t.astype(np.float16) for k, t in all.items()})),
        None,
    ),
    "numbers of two types": (tensors(lambda all: all.update({_A: all[_A].astype(np.float16)})), None),
    "code and pickles beside": (
        in_turn(beside("evil.py", b"1/0"), beside("training_args.bin", b"\x80\x04.")),
        None,
    ),
    "rank of one layer": (
        in_turn(tensors(_another_rank), said(rank_pattern={"q_proj": 8})),
        None,
    ),
    "alpha of one layer": (said(alpha_pattern={"layers.0.self_attn.q_proj": 32}), None),
    "rank with a point": (said(r=4.0), None),
    "alpha of a whole name": (said(alpha_pattern={"^model.layers.0.self_attn.q_proj$": 32}), None),
    "alpha of an escaped name": (said(alpha_pattern={r"model\.layers\.0\.self_attn\.q_proj": 32}), None),
    "rank of a whole name that isn't there": (said(rank_pattern={"^q_proj": 8}), None),
    "begun by a base's activations": (said(init_lora_weights="eva", eva_config={"rho": 2.0}), None),
    "method's settings of others beside": (
        said(layers_to_transform=[0, 1], exclude_modules=["lm_head"], runtime_config={"x": False}),
        None,
    ),
    "begun with parts of the base": (said(init_lora_weights="pissa_niter_16"), "changed base weights"),
    "ranks by a pattern": (said(rank_pattern={".*_proj": 4}), "only plain names"),
    "a head's adapter": (
        tensors(lambda all: all.update({"base_model.model.lm_head.lora_A.weight": np.ones((4, 32))})),
        "adapts the model's lm_head",
    ),
    "rank of one layer, not told": (tensors(_another_rank), "rank"),
    "rank told wrong": (said(r=8), "r is 8"),
    "rank huge": (said(r=10**9), "r is 1000000000"),
    "rank true": (said(r=True), "r is True"),
    "alpha not a number": (said(lora_alpha=float("nan")), "lora_alpha"),
    "alpha of text": (said(lora_alpha="16"), "lora_alpha"),
    "another method": (said(peft_type="IA3"), "peft_type"),
    "another task": (said(task_type="SEQ_CLS"), "task_type"),
    "bias": (said(bias="all"), "bias"),
    "modules_to_save": (said(modules_to_save=["lm_head"]), "modules_to_save"),
    "layers copied": (said(layer_replication=[[0, 1], [0, 1]]), "layer_replication"),
    "NaN": (tensors(lambda all: all[_A].put(5, np.nan)), "lora_A"),
    "infinity in a half number": (
        tensors(lambda all: all.update({_B: np.full((32, 4), np.inf, np.float16)})),
        "lora_B",
    ),
    "integers": (tensors(lambda all: all.update({_A: np.ones((4, 32), np.int8)})), "I8"),
    "turned round": (tensors(lambda all: all.update({_A: all[_A].T.copy()})), "lora_A"),
    "B missing": (tensors(lambda all: all.pop(_B)), "lora_B"),
    "no tensors": (tensors(lambda all: all.clear()), "holds no tensor"),
    "a layer that isn't there": (
        tensors(lambda all: all.update({_A.replace("layers.0", "layers.77"): np.ones((4, 32), np.float32)})),
        "layers.77",
    ),
    "a tensor of something else": (
        tensors(lambda all: all.update({"evil\x1b[0m": np.ones(1)})),
        "no part of a LoRA",
    ),
    "a pickle": (
        lambda adapter: (
            (adapter.path / "adapter_model.safetensors").rename(adapter.path / "adapter_model.bin") and None
        ),
        "Only safetensors",
    ),
    "no config": (
        lambda adapter: (adapter.path / "adapter_config.json").unlink(),
        "adapter_config.json is missing",
    ),
    "config broken": (beside("adapter_config.json", b"{"), "adapter_config.json"),
    "config a list": (beside("adapter_config.json", b"[]"), "holds no JSON object"),
    "config of one key twice": (beside("adapter_config.json", b'{"r": 4, "r": 8}'), "stands there twice"),
    "weights of no bytes": (beside("adapter_model.safetensors", b""), "cut short"),
    "a model's folder": (
        lambda adapter: (adapter.path / "adapter_model.safetensors").rename(
            adapter.path / "model.safetensors"
        ),
        "adapter_model.safetensors is missing",
    ),
}
