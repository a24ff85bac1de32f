"""An adapter merged into the weights of its base: a tensor at a time, as it will stand in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from qlora_kernels import Quantized4bit
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.loading import read_stored
from qlora_studio.engine.weight_files import Written
from qlora_studio.errors import StudioError
from qlora_studio.models.model_folder import open_folder
from qlora_studio.models.safetensors_header import StoredTensor
from qlora_studio.models.shapes import folder_plan
from qlora_studio.models.stored_weights import stored_weights

ORIGINAL, DEQUANTIZED = "original", "dequantized"
_WEIGHT = ".weight"

TensorOf = Callable[[str], Tensor]  # by the name in the file


class StoredWeights:
    """The tensors of a folder as they lie there, by the name in the model."""

    def __init__(self, folder: Path) -> None:
        """Raises: StudioError where one is missing, left over or misshapen."""
        self.tensors = stored_weights(folder, folder_plan(folder))
        self._folder = folder

    def tensor(self, name: str) -> Tensor:
        """On the CPU, in the type of the file."""
        stored = self.tensors[name]
        with open_folder(self._folder).open(stored.file) as file:
            return read_stored(file, stored, self._folder)


class MergedWeights:
    """The tensors of the merged model, in 16 bit and in the shape of the file; each made when asked for.

    dtype: of what is made, `in_32_bit` too
    base: original: the numbers of the model's folder. dequantized: those that the adapter was trained on.
    """

    def __init__(self, adapted: AdaptedModel, adapter: str, base: str) -> None:
        self.adapted = adapted
        self._adapter = adapter
        self.base = base
        self._stored = StoredWeights(Path(adapted.base.source))
        self.dtype = written_dtype(self._stored.tensors)

    def in_32_bit(self) -> MergedWeights:
        """The same, for a file that rounds its numbers in a way of its own.

        What no adapter changes stays in the type that it has in the base.
        """
        merged = MergedWeights(self.adapted, self._adapter, self.base)
        merged.dtype = torch.float32
        return merged

    @property
    def tensors(self) -> dict[str, Written]:
        """How each will stand in the file, in the order of the model."""
        return {name: Written(shape, self.dtype) for name, shape in self.shapes.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor, in the order of the model."""
        return {name: tensor.shape for name, tensor in self._stored.tensors.items()}

    @property
    def bytes(self) -> int:
        """Of all tensors together."""
        return sum(tensor.elements for tensor in self._stored.tensors.values()) * self.dtype.itemsize

    @torch.no_grad()
    def tensor(self, name: str) -> Tensor:
        """On the device. Raises: StudioError where a number is too large for 16 bit."""
        module = self._linear_of(name)
        if module is None:
            merged = self._original(name)
        else:
            merged = self._with_adapter(self._weight(name, module), module)
            merged = merged.T if is_turned(module) else merged
        if module is not None or self.dtype != torch.float32:
            merged = merged.to(self.dtype)
        merged = merged.contiguous()
        if not bool(
            torch.isfinite(torch.stack(torch.aminmax(merged))).all()
        ):  # isfinite alone copies it twice
            raise StudioError(
                f"{name} has numbers that {str(self.dtype).removeprefix('torch.')} can't hold.",
                hint="What was trained doesn't fit in 16 bit; an adapter can be exported alone.",
            )
        return merged

    def _linear_of(self, name: str) -> Any:
        """The layer whose weight this is, where it is quantized or has an adapter; else None."""
        if not name.endswith(_WEIGHT):
            return None
        module = self.adapted.causal_lm.get_submodule(name.removesuffix(_WEIGHT))
        quantized = isinstance(base_layer(module), bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)
        return module if quantized or self._adapter in getattr(module, "lora_A", ()) else None

    def _weight(self, name: str, module: Any) -> Tensor:
        """float32 [out, in], without the adapter."""
        linear = base_layer(module)
        if self.base == DEQUANTIZED and isinstance(linear, bnb.nn.Linear4bit):
            quantized = Quantized4bit.from_bitsandbytes(linear.weight, linear.weight.quant_state)
            return quantized.dequantize(torch.float32)
        if self.base == DEQUANTIZED and isinstance(linear, bnb.nn.Linear8bitLt):
            scales: Tensor = linear.weight.SCB if linear.weight.SCB is not None else linear.state.SCB
            codes: Tensor = linear.weight.detach().as_subclass(Tensor)
            return codes.float() * (scales / 127)[:, None]
        weight = self._original(name).float()
        return weight.T if is_turned(module) else weight

    def _original(self, name: str) -> Tensor:
        return self._stored.tensor(name).to(self.adapted.base.device.torch_device)

    def _with_adapter(self, weight: Tensor, module: Any) -> Tensor:
        """weight: float32 [out, in]"""
        name = self._adapter
        if name not in getattr(module, "lora_A", ()):
            return weight
        a: Tensor = module.lora_A[name].weight.float()
        b: Tensor = module.lora_B[name].weight.float()
        merged: Tensor = weight + module.scaling[name] * (b @ a)
        if name in module.lora_magnitude_vector:  # DoRA: each row has a length of its own
            length: Tensor = module.lora_magnitude_vector[name].weight.float()
            merged *= (length / torch.linalg.vector_norm(merged, dim=1))[:, None]
        return merged


def base_layer(module: Any) -> Any:
    """A linear layer without the adapter around it."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def is_turned(module: Any) -> bool:
    """Whether the file has its weight as [in, out], as GPT-2's."""
    linear = base_layer(module)
    return isinstance(linear, Conv1D) or bool(getattr(linear, "stored_transposed", False))


def written_dtype(stored: dict[str, StoredTensor]) -> torch.dtype:
    """Of a model made of this one: float16 where that is its own; else bfloat16, as wide as float32."""
    halves = sum(tensor.dtype == "F16" for tensor in stored.values())
    return torch.float16 if 2 * halves > len(stored) else torch.bfloat16
