"""A model's shape and tensors under GGUF's names: what llama.cpp and all that is built on it read.

Names and keys: the gguf package (MIT) and ggml's docs/gguf.md. Rotary layers of GGUF's `llama` turn
neighbouring numbers where transformers turns the two halves of a head: its query and key rows are reordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray
from torch import Tensor
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qlora_studio.engine import k_quants
from qlora_studio.engine.gguf_tokenizer import GgufTokenizer
from qlora_studio.errors import StudioError
from qlora_studio.models.clean_config import clean_config
from qlora_studio.models.gguf_support import (
    ARCHITECTURES,
    F16,
    K_QUANTS,
    Q4_K_M,
    Q5_K_M,
    Q6_K,
    Q8_0,
    check_family,
)

_FILE_TYPES = {
    F16: LlamaFileType.MOSTLY_F16,
    Q8_0: LlamaFileType.MOSTLY_Q8_0,
    Q6_K: LlamaFileType.MOSTLY_Q6_K,
    Q5_K_M: LlamaFileType.MOSTLY_Q5_K_M,
    Q4_K_M: LlamaFileType.MOSTLY_Q4_K_M,
}
_BY_GGUF = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0)
ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3_ROPE = "llama3"
_NUMBERS_AT_ONCE = 1 << 24
_TURNED = ("attn_q.", "attn_k.")  # of `llama`


@dataclass(frozen=True)
class GgufModel:
    """What is said of the model in the file. `architecture`: in GGUF's words."""

    architecture: str
    config: PretrainedConfig

    @classmethod
    def of(cls, folder: Path) -> GgufModel:
        """Raises: StudioError where GGUF, or what reads it here, can't say what this model does."""
        clean = clean_config(folder)
        check_family(clean.model_type)
        config = CONFIG_MAPPING[clean.model_type](**clean.values)
        if reason := _unsayable(clean.model_type, config):
            raise StudioError(
                f"{folder}: the model can't be written as GGUF here: {reason}.",
                hint="Export the merged model: llama.cpp's own converter may know more.",
            )
        return cls(ARCHITECTURES[clean.model_type], config)

    def name_of(self, name: str) -> str:
        """GGUF's name of a tensor. Raises: StudioError where it has none."""
        arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == self.architecture)
        names = gguf.get_tensor_name_map(arch, self.config.num_hidden_layers)
        found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise StudioError(f"{name} has no name in a GGUF file of a {self.architecture} model.")
        return found

    def as_stored(self, name: str, tensor: Tensor) -> Tensor:
        """Its numbers in the order of the file. name: GGUF's"""
        if self.architecture != "llama" or not any(part in name for part in _TURNED):
            return tensor
        config = self.config
        heads = config.num_attention_heads if "attn_q." in name else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)

    @property
    def rope_factors(self) -> NDArray[np.float32] | None:
        """[head_dim / 2]: by what Llama 3.1 and later divide the frequencies of positions; else None."""
        rope = self.config.rope_parameters
        if rope.get("rope_type", "default") != _LLAMA3_ROPE:
            return None
        scaled, _ = ROPE_INIT_FUNCTIONS[_LLAMA3_ROPE](self.config, torch.device("cpu"))
        halves = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32) / self.config.head_dim
        factors: NDArray[np.float32] = (rope["rope_theta"] ** -halves / scaled).numpy()
        return factors

    def say(self, writer: GGUFWriter, name: str, quant: str) -> None:
        """The keys that are no tokenizer's."""
        config = self.config
        head_dim = (
            config.head_dim
            if self.architecture == "llama"
            else config.hidden_size // config.num_attention_heads
        )
        writer.add_type("model")
        writer.add_name(name)
        writer.add_file_type(_FILE_TYPES[quant])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_rope_dimension_count(head_dim)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)


def write_gguf(
    file: Path,
    name: str,
    model: GgufModel,
    tokenizer: GgufTokenizer,
    quant: str,
    shapes: Mapping[str, tuple[int, ...]],
    tensor_of: Callable[[str], Tensor],
) -> Iterator[int]:
    """Says after each tensor how many bytes of numbers are written; no more than one is ever in memory.

    shapes:    of every tensor by its name in transformers
    tensor_of: in any float type
    Raises: OSError, StudioError where a number is too large for 16 bit, and what `tensor_of` raises.
    """
    writer = GGUFWriter(file, model.architecture)
    model.say(writer, name, quant)
    tokenizer.say(writer)
    names = {own: model.name_of(own) for own in shapes}
    types = _types_of(shapes, quant)
    factors = model.rope_factors
    if factors is not None:
        kind = GGMLQuantizationType.F32
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes, raw_dtype=kind)
    for own, shape in shapes.items():
        size = _bytes_of(shape, types[own])
        writer.add_tensor_info(names[own], shape, np.dtype(np.float32), size, raw_dtype=types[own])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        written = 0
        for own in shapes:
            stored = _quantized(model.as_stored(names[own], tensor_of(own)), types[own], own)
            writer.write_tensor_data(stored)
            written += stored.nbytes
            del stored  # before the next one is made
            yield written
    finally:
        writer.close()


def tensor_bytes(shapes: Mapping[str, tuple[int, ...]], quant: str) -> int:
    """Of all tensors together, as they lie in the file."""
    return sum(_bytes_of(shapes[own], kind) for own, kind in _types_of(shapes, quant).items())


def _types_of(shapes: Mapping[str, tuple[int, ...]], quant: str) -> dict[str, GGMLQuantizationType]:
    """By the names in transformers."""
    types = {own: _type_of(shape, quant) for own, shape in shapes.items()}
    if quant in K_QUANTS:
        types |= k_quants.types_of({own: shape for own, shape in shapes.items() if len(shape) > 1}, quant)
    return types


def _type_of(shape: tuple[int, ...], quant: str) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32  # norms and biases: a thousandth of the file
    block, _ = gguf.GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0]
    whole_blocks = shape[-1] % block == 0
    return GGMLQuantizationType.Q8_0 if quant == Q8_0 and whole_blocks else GGMLQuantizationType.F16


def _bytes_of(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(prod(shape) // block * size)


def _quantized(tensor: Tensor, kind: GGMLQuantizationType, name: str) -> NDArray[Any]:
    """By some rows at a time: of a whole embedding there would be copies in 32 bit."""
    rows = max(_NUMBERS_AT_ONCE // prod(tensor.shape[1:]), 1)
    stored: NDArray[Any] | None = None
    for first in range(0, tensor.shape[0], rows):
        part = _quantized_part(tensor[first : first + rows].float().contiguous().cpu().numpy(), kind, name)
        if stored is None:
            stored = np.empty((tensor.shape[0], *part.shape[1:]), part.dtype)
        stored[first : first + rows] = part
    assert stored is not None  # no tensor is empty
    return stored


def _quantized_part(numbers: NDArray[np.float32], kind: GGMLQuantizationType, name: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # it is looked for
        stored: NDArray[Any] = (
            gguf.quantize(numbers, kind) if kind in _BY_GGUF else k_quants.quantized(numbers, kind)
        )
    largest = float(np.finfo(np.float16).max) * (127 if kind == GGMLQuantizationType.Q8_0 else 1)
    if kind != GGMLQuantizationType.F32 and float(np.abs(numbers).max(initial=0.0)) > largest:
        raise StudioError(
            f"{name} has numbers that {kind.name} can't hold.", hint="Export the merged model instead."
        )
    return stored


def _unsayable(family: str, config: PretrainedConfig) -> str:
    """What of a config neither GGUF's keys nor its reader know, in words; empty where there is nothing."""
    rope = config.rope_parameters
    if rope.get("rope_type", "default") not in ("default", _LLAMA3_ROPE if family == "llama" else ""):
        kind = str(rope["rope_type"])[:30]
        return f"its positions are scaled ({kind}), which could not be read back and compared"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "only a part of each head is turned by the position"
    if config.hidden_act != "silu":
        return f"it computes with {config.hidden_act}, and its architecture there is one with silu"
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        return "its layers have biases that its architecture there doesn't have"
    window = (
        config.sliding_window if family == "mistral" or getattr(config, "use_sliding_window", False) else None
    )
    if window is not None and window < config.max_position_embeddings:
        return f"it looks back {window:,} tokens only"
    if family == "qwen2" and getattr(config, "head_dim", None) not in (
        None,
        config.hidden_size // config.num_attention_heads,
    ):
        return "its heads have a width of their own"
    return ""
