"""How the frozen weights are stored: linear layers in 4 or 8 bit, all else in the compute dtype."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import bitsandbytes as bnb
import torch
from qlora_kernels.quantize import use_on_cpu
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from qlora_studio.engine.int8_linear import FrozenInt8Linear

_OUTLIERS = 6.0  # LLM.int8(): inputs beyond this are multiplied in 16 bit


@dataclass(frozen=True)
class Storage:
    """quantization: nf4 | fp4 | int8 | none"""

    quantization: str
    double_quant: bool
    compute_dtype: torch.dtype

    @property
    def is_4bit(self) -> bool:
        """nf4 or fp4."""
        return self.quantization in ("nf4", "fp4")

    @property
    def unquantized_dtype(self) -> torch.dtype:
        """Of a linear layer that is never quantized. transformers keeps T5's in float32 where all else is in
        float16, which hasn't their range.
        """
        return torch.float32 if self.compute_dtype == torch.float16 else self.compute_dtype


def use_quantized_linears(model: PreTrainedModel, storage: Storage, unquantized: Collection[str]) -> None:
    """Puts a quantized layer, still empty, in place of every linear layer but the head.

    unquantized: full names of those that stay
    """
    if storage.quantization == "none":
        return
    use_on_cpu()
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | Conv1D) and module is not head and name not in unquantized:
            model.set_submodule(name, _empty_quantized(module, storage))
    model.is_loaded_in_4bit = storage.is_4bit  # how peft tells which of its layers fits
    model.is_loaded_in_8bit = not storage.is_4bit


def place(
    module: nn.Module,
    name: str,
    tensor: Tensor,
    storage: Storage,
    device: torch.device,
    *,
    unquantized: bool = False,
) -> Tensor:
    """Puts a weight into its layer, on the device, quantized where the layer is. Returns it before that.

    tensor:      on the CPU or the device; shape as the file has it, [in, out] for GPT-2's layers
    unquantized: the layer is one of those that never are
    """
    dtype = storage.unquantized_dtype if unquantized else storage.compute_dtype
    tensor = tensor.to(device=device, dtype=dtype)
    if name == "weight" and isinstance(module, bnb.nn.Linear4bit):
        weight = bnb.nn.Params4bit(
            _out_by_in(module, tensor),
            requires_grad=False,
            compress_statistics=storage.double_quant,
            quant_type=storage.quantization,
            module=module,
        )
        module.weight = weight.to(device)  # quantizes
    elif name == "weight" and isinstance(module, bnb.nn.Linear8bitLt):
        # From the CPU: bitsandbytes quantizes only what moves from there.
        weight = bnb.nn.Int8Params(
            _out_by_in(module, tensor).cpu(), requires_grad=False, has_fp16_weights=False
        )
        module.weight = weight.to(device)
    else:
        setattr(module, name, nn.Parameter(tensor, requires_grad=False))
    return tensor


def stored_bytes(model: nn.Module) -> int:
    """Of all weights and buffers as they are stored now, each counted once."""
    tensors: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        for part in (tensor, *_scales(tensor)):
            tensors[part.data_ptr()] = part
    return sum(tensor.nbytes for tensor in tensors.values())


def _empty_quantized(linear: nn.Linear | Conv1D, storage: Storage) -> nn.Module:
    transposed = isinstance(linear, Conv1D)
    shape = tuple(linear.weight.shape)
    out_features, in_features = shape[::-1] if transposed else shape
    if storage.is_4bit:
        quantized = bnb.nn.Linear4bit(
            in_features,
            out_features,
            bias=linear.bias is not None,
            compute_dtype=storage.compute_dtype,
            compress_statistics=storage.double_quant,
            quant_type=storage.quantization,
            device="meta",
        )
    else:
        quantized = FrozenInt8Linear(
            in_features,
            out_features,
            bias=linear.bias is not None,
            has_fp16_weights=False,
            threshold=_OUTLIERS,
            device="meta",
        )
    quantized.requires_grad_(False)
    quantized.stored_transposed = transposed  # `place` turns such weights round
    return quantized  # type: ignore[no-any-return]


def _out_by_in(module: nn.Module, tensor: Tensor) -> Tensor:
    return tensor.T.contiguous() if module.stored_transposed else tensor


def _scales(weight: Tensor) -> list[Tensor]:
    state = getattr(weight, "quant_state", None)
    if state is None:
        scales = getattr(weight, "SCB", None)
        return [scales] if scales is not None else []
    nested = [state.state2.absmax] if state.nested else []
    return [state.absmax, *nested]
