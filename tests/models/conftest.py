"""Tiny model and adapter folders, sound unless a test breaks them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from qlora_studio.models.clean_config import clean_values
from qlora_studio.models.tensor_plan import TensorPlan, tensor_plan

TINY_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class Folder:
    """A model folder and what is in it."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config = dict(config)
        path.mkdir(parents=True, exist_ok=True)

    @property
    def plan(self) -> TensorPlan:
        model_type, values = clean_values(self.config, self.path)
        return tensor_plan(model_type, values)

    def tensors(self) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        return {
            name: random.standard_normal(shape).astype(np.float32) / 8 for name, shape in self.plan.tensors()
        }

    def write_config(self, **changes: Any) -> None:
        self.config |= changes
        kept = {name: value for name, value in self.config.items() if value is not ...}
        (self.path / "config.json").write_text(json.dumps(kept))

    def write_weights(self, tensors: Mapping[str, np.ndarray] | None = None) -> None:
        save_file(dict(tensors if tensors is not None else self.tensors()), self.path / "model.safetensors")

    def write_shards(self, tensors: Mapping[str, np.ndarray] | None = None) -> dict[str, str]:
        """Two files and their index; returns its weight_map."""
        tensors = dict(tensors if tensors is not None else self.tensors())
        names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
        places = {name: names[index % 2] for index, name in enumerate(tensors)}
        for file in names:
            save_file({name: tensors[name] for name in tensors if places[name] == file}, self.path / file)
        self.write_index(places)
        return places

    def write_index(self, places: Mapping[str, Any]) -> None:
        index = {"metadata": {"total_size": 1}, "weight_map": dict(places)}
        (self.path / "model.safetensors.index.json").write_text(json.dumps(index))

    def write_tokenizer(self, highest_id: int = 99) -> None:
        vocab = {f"t{number}": number for number in range(highest_id + 1)}
        tokenizer = {
            "version": "1.0",
            "added_tokens": [],
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        }
        (self.path / "tokenizer.json").write_text(json.dumps(tokenizer))
        (self.path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "t2"}))


@pytest.fixture
def llama(tmp_path: Path) -> Folder:
    """A sound tiny Llama in one file."""
    folder = Folder(tmp_path / "tiny-llama", TINY_LLAMA)
    folder.write_config()
    folder.write_weights()
    folder.write_tokenizer()
    return folder


@pytest.fixture
def raw_safetensors(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file whose header says what it is told to."""

    def write(
        header: Any, data: bytes = b"", length: int | None = None, name: str = "model.safetensors"
    ) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        (tmp_path / "raw").mkdir(exist_ok=True)
        path = tmp_path / "raw" / name
        path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
        return path

    return write
