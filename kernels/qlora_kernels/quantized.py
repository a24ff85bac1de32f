"""A linear layer's weight in 4 bits: how it is made, and how bitsandbytes writes the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qlora_kernels.codebooks import dynamic_8bit_code, four_bit_code
from qlora_kernels.dequantize import NESTED_BLOCK_SIZE, dequantize_4bit

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState

_SMALLEST_SCALE = 1e-38  # a block of zeros is divided by this instead of by zero
_CPU_TABLE_STEPS = 32767.5  # from 0 to 1, in the 65,536 entries of bitsandbytes' CPU library


@dataclass(frozen=True)
class NestedAbsmax:
    """The scales of a weight, quantized again: absmax = code[codes] * scale[block of 256] + offset."""

    scale: Tensor  # float32 [ceil(blocks / 256)]
    code: Tensor  # float32 [256]
    offset: Tensor  # float32 []


@dataclass(frozen=True)
class Quantized4bit:
    """A weight in NF4 or FP4, in bitsandbytes' layout: codes in row order, two a byte, high nibble first."""

    packed: Tensor  # uint8 [ceil(numel / 2)]
    absmax: Tensor  # [blocks]; float32, or uint8 codes where `nested` is there
    quant_type: str  # nf4 | fp4
    block_size: int  # weights a scale
    shape: tuple[int, ...]
    nested: NestedAbsmax | None = None

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        packed, absmax, *nested = self.tensors
        dequantized: Tensor = dequantize_4bit(
            packed, absmax, self.block_size, self.quant_type, self.shape, dtype, *nested
        )
        return dequantized

    @property
    def tensors(self) -> list[Tensor]:
        """Codes and scales in the order in which the operations take them."""
        if self.nested is None:
            return [self.packed, self.absmax]
        return [self.packed, self.absmax, self.nested.scale, self.nested.code, self.nested.offset]

    @classmethod
    def from_bitsandbytes(cls, weight: Tensor, state: QuantState) -> Quantized4bit:
        """Looks at the same memory; nothing is copied.

        Raises: ValueError where the layout isn't the one that bitsandbytes trains with and saves.
        """
        if getattr(state, "packing_format_for_cpu", False):
            raise ValueError("bitsandbytes has repacked this weight for CPU inference, which can't be undone")
        if state.nested and state.state2.blocksize != NESTED_BLOCK_SIZE:
            raise ValueError(f"its scales are quantized in blocks of {state.state2.blocksize}, not of 256")
        return cls(
            packed=weight.detach().as_subclass(Tensor).view(-1).view(torch.uint8),
            absmax=state.absmax,
            quant_type=state.quant_type,
            block_size=state.blocksize,
            shape=tuple(state.shape),
            nested=NestedAbsmax(state.state2.absmax, state.state2.code, state.offset)
            if state.nested
            else None,
        )

    def to_bitsandbytes(self, dtype: torch.dtype) -> tuple[Tensor, QuantState]:
        """The packed weight [bytes, 1] and its state, as bitsandbytes' `quantize_4bit` gives them."""
        from bitsandbytes.functional import QuantState

        state2 = None
        if self.nested:
            state2 = QuantState(
                absmax=self.nested.scale,
                code=self.nested.code,
                blocksize=NESTED_BLOCK_SIZE,
                dtype=torch.float32,
            )
        state = QuantState(
            absmax=self.absmax,
            shape=torch.Size(self.shape),
            code=four_bit_code(self.quant_type, self.packed.device).clone(),
            blocksize=self.block_size,
            quant_type=self.quant_type,
            dtype=dtype,
            offset=self.nested.offset if self.nested else None,
            state2=state2,
        )
        return self.packed.view(-1, 1), state


def quantize_4bit(
    weight: Tensor, quant_type: str = "nf4", block_size: int = 64, double_quant: bool = True
) -> Quantized4bit:
    """Rounds each weight to the nearest of 16 values times its block's largest magnitude.

    On a CPU these are bitsandbytes' bits; on a card some codes differ from those that it makes there.
    """
    code = four_bit_code(quant_type, weight.device)
    sorted_code, code_of_rank = code.sort(stable=True)
    bounds = (sorted_code[:-1] + sorted_code[1:]) / 2

    blocks = in_blocks(weight, block_size)
    absmax = blocks.abs().amax(dim=-1)
    scaled = (blocks * (1.0 / absmax.clamp(min=_SMALLEST_SCALE))[:, None]).clamp(-1, 1)
    codes = code_of_rank[torch.bucketize(scaled, bounds)].to(torch.uint8).view(-1)
    packed = (codes[::2] << 4) | codes[1::2]

    nested = None
    if double_quant:
        absmax, nested = quantize_absmax(absmax)
    return Quantized4bit(
        packed=packed[: (weight.numel() + 1) // 2].clone(),
        absmax=absmax,
        quant_type=quant_type,
        block_size=block_size,
        shape=tuple(weight.shape),
        nested=nested,
    )


def quantize_absmax(absmax: Tensor) -> tuple[Tensor, NestedAbsmax]:
    """The scales of a weight in 8 bits: codes, uint8 [blocks], and what they stand for.

    absmax: float32 [blocks]
    """
    code = dynamic_8bit_code(absmax.device)
    offset = absmax.mean()  # the scales are all positive: without it half of the code would be idle
    blocks = in_blocks(absmax - offset, NESTED_BLOCK_SIZE)
    scale = blocks.abs().amax(dim=-1)
    scaled = blocks * (1.0 / scale.clamp(min=_SMALLEST_SCALE))[:, None]
    if scaled.device.type == "cpu":  # bitsandbytes' CPU library rounds here to the steps of a table
        scaled = ((scaled + 1) * _CPU_TABLE_STEPS + 0.5).floor() / _CPU_TABLE_STEPS - 1
    above = torch.searchsorted(code, scaled).clamp(1, len(code) - 1)
    nearer_below = scaled - code[above - 1] <= code[above] - scaled
    codes = torch.where(nearer_below, above - 1, above).to(torch.uint8)
    return codes.view(-1)[: absmax.numel()].clone(), NestedAbsmax(scale, code, offset)


def in_blocks(values: Tensor, block_size: int) -> Tensor:
    """float32 [blocks, block_size], in row order; what is missing of the last one is zero."""
    flat = values.detach().reshape(-1).float()
    missing = -flat.numel() % block_size
    return torch.nn.functional.pad(flat, (0, missing)).view(-1, block_size)
