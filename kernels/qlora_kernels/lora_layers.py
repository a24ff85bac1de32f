"""peft's and bitsandbytes' own 4-bit layers with one thing changed: how they multiply."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import bitsandbytes as bnb
import torch
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from torch import Tensor, nn
from torch.nn.functional import linear

from qlora_kernels import fp8
from qlora_kernels.adapted import adapted_4bit, low_rank_of
from qlora_kernels.adapted_fp8 import adapted_fp8
from qlora_kernels.joined import dequantize_into, has_room_beside, is_wide
from qlora_kernels.linear import linear_4bit, linears_4bit_directly, low_rank_product
from qlora_kernels.quantized import Quantized4bit

# A layer becomes one of these by its `__class__`: module, parameters, names and state_dict stay as they are,
# a copy of the model stays whole, and one compiled graph serves all layers (closures would each be compiled).


class FrozenLinear4bit(bnb.nn.Linear4bit):  # type: ignore[misc]
    """A 4-bit linear layer that only reads its packed weight, in training and in evaluation."""

    keep_dequantized: bool
    fp8_scales: Tensor | None
    _weight_in_use: _WeightInUse | None

    @classmethod
    def take_over(cls, layer: bnb.nn.Linear4bit, keep_dequantized: bool) -> None:
        layer.__class__ = cls
        layer.keep_dequantized = keep_dequantized
        layer.fp8_scales = None
        layer._weight_in_use = None

    def forward(self, x: Tensor, low_rank: Tensor | None = None, lora_b: Tensor | None = None) -> Tensor:
        """See `linear_4bit`. Computes in the layer's compute dtype and returns the input's."""
        dtype = self.product_dtype(x)
        if low_rank is None and self.learns_in_fp8:
            return self.product_in_fp8(x.to(dtype)).to(x.dtype)
        quantized, weight = self._weight(dtype)
        bias_is_trained = self.bias is not None and self.bias.requires_grad
        bias = None if self.bias is None or bias_is_trained else self.bias.to(dtype)
        if self.keep_dequantized and not x.is_cuda and not torch.is_autocast_enabled(x.device.type):
            product = _product_with_kept_weight(x.to(dtype), weight[0], bias, low_rank, lora_b)
        else:
            shape, block_size, quant_type = quantized.shape, quantized.block_size, quantized.quant_type
            product = linear_4bit(x.to(dtype), weight, block_size, quant_type, shape, bias, low_rank, lora_b)
        if bias_is_trained:
            product = product + self.bias.to(dtype)
        return product.to(x.dtype)

    def keep(self, wanted: bool) -> None:
        """The weight dequantized beside its codes, from the next product on; or not any more."""
        if self.keep_dequantized != wanted:
            self.keep_dequantized = wanted
            self._weight_in_use = None

    def keep_in(self, with_room: Tensor) -> None:
        """The weight dequantized there, from the next product on.

        with_room: dtype [out_features or more, in_features or more], see `joined`
        """
        self.keep(False)
        quantized, _ = self._weight(with_room.dtype)
        rows, columns = quantized.shape
        part = with_room[:rows, :columns]
        dequantize_into(part, quantized.tensors, quantized.block_size, quantized.quant_type)
        self.keep(True)
        self._weight_in_use = _WeightInUse(self.weight, quantized, part, with_room)

    @property
    def numbers_of_room(self) -> int:
        """Beside the weight that stays dequantized, for an adapter."""
        used = self._weight_in_use
        if used is None or used.dequantized is None or used.with_room is None:
            return 0
        return used.with_room.numel() - used.dequantized.numel()

    def look_at_weight(self) -> None:
        """Before the layer is compiled: no compiler looks through bitsandbytes' own classes."""
        self._weight(self.compute_dtype or torch.float32)

    def multiply_in_fp8(self) -> str | None:
        """From now on, where the layer is compiled and learns. Why it can't; None where it does."""
        quantized, weight = self._weight(self.compute_dtype or torch.float32)
        given = quantized.block_size, quantized.quant_type, quantized.shape
        reason = fp8.refused(weight, quantized.block_size, quantized.shape)
        self.fp8_scales = None if reason else fp8.row_scales(weight, *given)
        return reason

    @property
    def learns_in_fp8(self) -> bool:
        """Whether it is being compiled, and is to multiply so."""
        return self.fp8_scales is not None and torch.compiler.is_compiling()

    def product_in_fp8(self, x: Tensor) -> Tensor:
        """x W^T and the bias, in x's dtype, which is the layer's."""
        quantized, weight = self._weight(x.dtype)
        product: Tensor = fp8.linear_fp8(
            x,
            *fp8.scaled(x.detach()),
            weight,
            self.fp8_scales,
            quantized.block_size,
            quantized.quant_type,
            quantized.shape,
        )
        return product if self.bias is None else product + self.bias.to(x.dtype)

    def product_dtype(self, x: Tensor) -> torch.dtype:
        return self.compute_dtype or x.dtype

    def _weight(self, dtype: torch.dtype) -> tuple[Quantized4bit, list[Tensor]]:
        used = self._weight_in_use
        # Merging puts a new parameter in its place. A compiler can't compare them: it finds it looked at.
        if used is None or (not torch.compiler.is_compiling() and used.parameter is not self.weight):
            quantized = Quantized4bit.from_bitsandbytes(self.weight, self.weight.quant_state)
            used = self._weight_in_use = _WeightInUse(self.weight, quantized)
        if not self.keep_dequantized:
            return used.quantized, used.quantized.tensors
        if used.dequantized is None or used.dequantized.dtype != dtype:
            with torch.inference_mode(False):  # made while chatting, it must still serve training
                used.dequantized, used.with_room = used.quantized.dequantize(dtype), None
        return used.quantized, [used.dequantized]

    def _weight_to_learn(self, dtype: torch.dtype) -> tuple[Quantized4bit, list[Tensor]]:
        """With the room that it has."""
        quantized, weight = self._weight(dtype)
        with_room = None if self._weight_in_use is None else self._weight_in_use.with_room
        return quantized, weight if with_room is None or len(weight) > 1 else [with_room]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._weight_in_use = None  # moving a module may put other memory under the same parameter
        return super()._apply(fn, recurse)


def _product_with_kept_weight(
    x: Tensor, weight: Tensor, bias: Tensor | None, low_rank: Tensor | None, lora_b: Tensor | None
) -> Tensor:
    """`linear_4bit` in torch's own operations: the weight is in memory anyway, so nothing must be hidden from
    autograd, and 210 layers spare a tenth of a second a step on a CPU.
    """
    product = linear(x.reshape(-1, x.shape[-1]), weight, bias)
    if low_rank is not None and lora_b is not None:
        product.addmm_(low_rank.reshape(-1, low_rank.shape[-1]), lora_b.to(x.dtype).t())
    return product.view(*x.shape[:-1], -1)


@dataclass
class _WeightInUse:
    """Held in an object, because a module would list a parameter or tensor of its own in its state_dict."""

    parameter: Tensor
    quantized: Quantized4bit
    dequantized: Tensor | None = None
    with_room: Tensor | None = None  # the same memory, with what lies beside or below it for an adapter


class FusedLoraLinear4bit(PeftLinear4bit):  # type: ignore[misc]
    """peft's LoRA layer over a FrozenLinear4bit: base and adapter in one product where that is the same.

    rows_by: the adapter of each row of x, or one for all rows; None: the base alone. (): the active one
    """

    rows_by: tuple[str | None, ...] = ()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.rows_by:
            return products_of(x.to(self.base_layer.product_dtype(x)), [self])[0].to(x.dtype)
        if args or kwargs or plain_reason(self) is not None:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        adapters = active_adapters(self)
        if not adapters:
            return self.base_layer(x)  # type: ignore[no-any-return]
        if writes_replies(self, x):
            return products_of(x, [self])[0]
        (adapter,) = adapters
        dtype = self.base_layer.product_dtype(x)
        if self._learns_at_once(adapter, x):
            return self._learning(x if x.dtype == dtype else x.to(dtype), adapter).to(x.dtype)
        if self.base_layer.learns_in_fp8:
            return self._learning_in_fp8(x if x.dtype == dtype else x.to(dtype), adapter).to(x.dtype)
        dropped = self.lora_dropout[adapter](x.to(dtype))
        lora_a, scaling = self.lora_A[adapter].weight, self.scaling[adapter]
        if torch.is_grad_enabled():
            low_rank = linear(dropped, lora_a.to(dtype)) * scaling
        else:
            low_rank = low_rank_product(dropped, lora_a, scaling)
        return self.base_layer(x, low_rank.to(dtype), self.lora_B[adapter].weight)  # type: ignore[no-any-return]

    def _learns_at_once(self, adapter: str, x: Tensor) -> bool:
        """Whether `_learning` gives what A after dropout and B behind the base's product give, but for the
        order of some sums: not on a processor, where free memory decides how is multiplied, but never a bit.
        """
        base, dropout = self.base_layer, self.lora_dropout[adapter]
        return (
            torch.is_grad_enabled()
            and (x.is_cuda or torch.compiler.is_compiling())
            and not torch.is_autocast_enabled(x.device.type)
            and (base.bias is None or not base.bias.requires_grad)
            and (_drops_nothing(dropout) or not dropout.training)
        )

    def _learning(self, x: Tensor, adapter: str) -> Tensor:
        base = self.base_layer
        quantized, weight = base._weight_to_learn(x.dtype)
        lora_a = (self.lora_A[adapter].weight * self.scaling[adapter]).to(x.dtype)
        given = (
            x,
            lora_a,
            low_rank_of(x, lora_a),
            weight,
            quantized.block_size,
            quantized.quant_type,
            [quantized.shape[0]],
            [None if base.bias is None else base.bias.to(x.dtype)],
            [self.lora_B[adapter].weight.to(x.dtype)],
        )
        if base.learns_in_fp8:
            (product,) = adapted_fp8(*given, *fp8.scaled(x.detach()), [base.fp8_scales])
        else:
            (product,) = adapted_4bit(*given, False)
        return product  # type: ignore[no-any-return]

    def _learning_in_fp8(self, x: Tensor, adapter: str) -> Tensor:
        """The base's product in e4m3, the adapter's after dropout as always."""
        product = self.base_layer.product_in_fp8(x)
        lora_a = (self.lora_A[adapter].weight * self.scaling[adapter]).to(x.dtype)
        low_rank = linear(self.lora_dropout[adapter](x), lora_a)
        of_adapter = linear(low_rank, self.lora_B[adapter].weight.to(x.dtype))
        return product + of_adapter  # type: ignore[no-any-return]


def plain_reason(layer: PeftLinear4bit) -> str | None:
    """Why peft's own forward has to run as things stand; None where the fused one gives the same."""
    if layer.merged:
        return "its adapter is merged into the weight"
    adapters = active_adapters(layer)
    if len(adapters) > 1:
        return f"several adapters are mixed: {', '.join(adapters)}"
    return no_plain_lora_reason(layer, adapters)


def no_plain_lora_reason(layer: PeftLinear4bit, adapters: Sequence[str]) -> str | None:
    """Which of these isn't what the fused product computes; None where all are."""
    for adapter in adapters:
        if adapter in layer.lora_variant:
            return f"adapter {adapter} is no plain LoRA: {type(layer.lora_variant[adapter]).__name__}"
        if layer.lora_bias[adapter]:
            return f"adapter {adapter} has a bias of its own (lora_bias)"
    return None


def active_adapters(layer: PeftLinear4bit) -> list[str]:
    if layer.disable_adapters:
        return []
    return [name for name in layer.active_adapters if name in layer.lora_A]


def writes_replies(layer: Any, x: Tensor) -> bool:
    """Whether `products_of` gives what the layer's own forward would: on a card, where nothing is learned.

    layer: a FusedLoraLinear4bit, or a FrozenLinear4bit that no adapter is around
    """
    if torch.is_grad_enabled() or layer.training or not x.is_cuda or torch.is_autocast_enabled("cuda"):
        return False
    if isinstance(layer, FusedLoraLinear4bit):
        if plain_reason(layer) is not None:
            return False
        layer = layer.base_layer
    return (
        isinstance(layer, FrozenLinear4bit)
        and layer.product_dtype(x) == x.dtype
        and (layer.bias is None or not layer.bias.requires_grad)
    )


def products_of(x: Tensor, layers: Sequence[Any]) -> list[Tensor]:
    """What each layer makes of x, at once. All `writes_replies`, and `fits_beside` one another."""
    weights: list[Tensor] = []
    rows, biases, lora_a, lora_b, scalings = [], [], [], [], []
    adapters = [_adapters_of(layer) for layer in layers]
    most = max(map(len, adapters))
    for layer, own in zip(layers, adapters, strict=True):
        base = base_of(layer)
        quantized, _ = base._weight(x.dtype)
        weights += quantized.tensors
        rows.append(quantized.shape[0])
        biases.append(None if base.bias is None else base.bias.to(x.dtype))
        for adapter in own if len(own) == most else own * most:
            lora_a.append(None if adapter is None else layer.lora_A[adapter].weight)
            lora_b.append(None if adapter is None else layer.lora_B[adapter].weight)
            scalings.append(1.0 if adapter is None else float(layer.scaling[adapter]))
    # Past torch's dispatcher: a long prompt's products would wait for it.
    return linears_4bit_directly(
        x, weights, quantized.block_size, quantized.quant_type, rows, biases, lora_a, lora_b, scalings
    )


def _adapters_of(layer: Any) -> list[str | None]:
    """One for all rows of x, or one for each; None: the base alone."""
    if not isinstance(layer, FusedLoraLinear4bit):
        return [None]
    if layer.rows_by:
        return [name if name in layer.lora_A else None for name in layer.rows_by]
    return [next(iter(active_adapters(layer)), None)]


def fits_beside(layer: Any, other: Any) -> bool:
    """Whether `products_of` takes both at once. Compares what lies on the card: not for every call."""
    one, two = (base_of(each)._weight(base_of(each).compute_dtype)[0] for each in (layer, other))
    if (one.block_size, one.quant_type, one.shape[1]) != (two.block_size, two.quant_type, two.shape[1]):
        return False
    if one.nested is None or two.nested is None:
        return one.nested is two.nested
    return torch.equal(one.nested.code, two.nested.code)


def keep_in_one(layers: Sequence[Any]) -> None:
    """Their weights stay dequantized, those with inputs of one size one below the other: as `joined` finds
    them, where they follow each other as they are multiplied. dtype: the one that each computes in.

    layers: FrozenLinear4bit, or FusedLoraLinear4bit around one
    """
    for (columns, dtype, wide, _), group in itertools.groupby(layers, _lies_like):
        together = list(group)
        bases = [base_of(layer) for layer in together]
        heights = [base._weight(dtype)[0].shape[0] for base in bases]
        rank = sum(map(_rank, together))
        beside = rank if wide and has_room_beside(columns, rank, dtype) else 0
        below = rank if len(together) == 1 and is_wide(columns, heights[0]) else 0
        shape = [sum(heights) + below, columns + beside]
        with torch.inference_mode(False):
            room = torch.empty(shape, dtype=dtype, device=bases[0].weight.device)
        heights[-1] += below
        for base, part in zip(bases, torch.split(room, heights), strict=True):
            base.keep_in(part)


def _lies_like(layer: Any) -> tuple[int, torch.dtype, bool, bool]:
    base = base_of(layer)
    dtype = base.compute_dtype or torch.float32
    rows, columns = base._weight(dtype)[0].shape
    wide = is_wide(rows, columns)
    # No room beside a weight that has no adapter, and is multiplied alone.
    return columns, dtype, wide, wide and _rank(layer) > 0


def _rank(layer: Any) -> int:
    """Of the adapter that is multiplied with the weight at once; 0 where none is."""
    if layer is base_of(layer):
        return 0
    adapters = (name for name in active_adapters(layer) if _drops_nothing(layer.lora_dropout[name]))
    return next((layer.r[name] for name in adapters), 0)


def _drops_nothing(dropout: nn.Module) -> bool:
    return isinstance(dropout, nn.Identity) or not dropout.p


def products_in(model: nn.Module) -> list[Any]:
    """Its FusedLoraLinear4bit, and each FrozenLinear4bit that no adapter is around, in the model's order."""
    inside = {layer.base_layer for layer in model.modules() if isinstance(layer, FusedLoraLinear4bit)}
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, FrozenLinear4bit | FusedLoraLinear4bit) and layer not in inside
    ]


def base_of(layer: Any) -> Any:
    """The FrozenLinear4bit that it is, or that its adapters are around."""
    return layer.base_layer if isinstance(layer, FusedLoraLinear4bit) else layer
