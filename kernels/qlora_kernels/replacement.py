"""Puts the fast products into a peft model, layer by layer, and says where it can't."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    import bitsandbytes as bnb


@dataclass
class ReplacedReport:
    """What `replace_forwards` did to a model."""

    replaced: int = 0  # 4-bit LoRA linears that now run as one product
    frozen: int = 0  # 4-bit linears without an adapter, replaced too
    fallbacks: dict[str, str] = field(default_factory=dict)  # layer name: why peft's own forward runs there


def replace_forwards(model: nn.Module, *, keep_dequantized: bool | None = None) -> ReplacedReport:
    """Replaces how the 4-bit layers of a peft LoRA model multiply; modules, names and files stay as they are.

    keep_dequantized: hold each weight dequantized as well, so that it is dequantized once, not twice a step.
    None: where the model lies on the CPU and the copies take at most half of the free memory. The choice
    changes speed and memory, and on a CPU never a bit of the results; a card may sum in another order.

    A layer named in `fallbacks` may become fast later (when adapters are switched): it looks at each call.
    Safe to call again, for instance after an adapter was added.
    """
    import bitsandbytes as bnb
    from peft.tuners.lora.layer import LoraLayer

    disable_cpu_repacking(model)
    linears = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    if keep_dequantized is None:
        keep_dequantized = _fits_dequantized(linears)
    report = ReplacedReport()

    adapted: set[nn.Module] = set()
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            adapted.add(module.get_base_layer())
            reason = _replace_lora(module, keep_dequantized)
            if reason is None:
                report.replaced += 1
            else:
                report.fallbacks[name] = reason
    for linear in linears:
        if linear not in adapted and _replace_linear(linear, keep_dequantized) is None:
            report.frozen += 1
    return report


def disable_cpu_repacking(model: nn.Module) -> int:
    """Keeps bitsandbytes from rewriting 4-bit weights for CPU inference; returns how many modules would have.

    On a CPU with AVX512-BF16 a forward in evaluation mode rewrites them in place, in another layout with
    rounded scales, and training on is silently wrong.

    Raises: RuntimeError where it has happened already: the exact scales are lost.
    """
    changed = 0
    for name, module in model.named_modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise RuntimeError(f"bitsandbytes has repacked {name} for CPU inference: load the model again")
        changed += bool(module.support_avx512bf16_for_cpu)
        module.support_avx512bf16_for_cpu = False
    return changed


def _replace_lora(layer: Any, keep_dequantized: bool) -> str | None:
    import bitsandbytes as bnb
    from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit

    from qlora_kernels.lora_layers import FusedLoraLinear4bit, plain_reason

    base = layer.get_base_layer()
    if type(layer) not in (PeftLinear4bit, FusedLoraLinear4bit):
        if isinstance(base, bnb.nn.Linear4bit):
            _replace_linear(base, keep_dequantized)
        return _unknown_layer_reason(base)
    reason = _replace_linear(layer.base_layer, keep_dequantized) or _foreign_forward_reason(layer)
    if reason is not None:
        return reason
    layer.__class__ = FusedLoraLinear4bit
    return plain_reason(layer)


def _replace_linear(linear: nn.Module, keep_dequantized: bool) -> str | None:
    import bitsandbytes as bnb

    from qlora_kernels.lora_layers import FrozenLinear4bit

    if not isinstance(linear, FrozenLinear4bit):
        if type(linear).forward is not bnb.nn.Linear4bit.forward:
            return f"its base layer is a {type(linear).__name__}"
        if getattr(linear.weight, "quant_state", None) is None:
            return "its weight isn't quantized yet"
    reason = _foreign_forward_reason(linear)
    if reason is None:
        FrozenLinear4bit.take_over(linear, keep_dequantized)
    return reason


def _foreign_forward_reason(module: nn.Module) -> str | None:
    return "its forward was already replaced by another library" if "forward" in vars(module) else None


def _unknown_layer_reason(base: nn.Module) -> str:
    import bitsandbytes as bnb

    if isinstance(base, bnb.nn.Linear8bitLt):
        return "its weight is int8"
    if isinstance(base, nn.Embedding):
        return "it is an embedding"
    if isinstance(base, bnb.nn.Linear4bit):
        return "its LoRA layer is of a kind we don't know"
    return f"its weight isn't quantized ({type(base).__name__})"


def _fits_dequantized(linears: list[bnb.nn.Linear4bit]) -> bool:
    if not linears or any(linear.weight.device.type != "cpu" for linear in linears):
        return False
    import psutil

    needed = sum(
        linear.in_features * linear.out_features * (linear.compute_dtype or torch.float32).itemsize
        for linear in linears
    )
    return bool(needed <= psutil.virtual_memory().available // 2)
