"""What a weight becomes where it is stored in few bits, for any values that the codes stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from qlora_kernels.dequantize import NESTED_BLOCK_SIZE
from qlora_kernels.quantize import ranks_in, table_of
from qlora_kernels.quantized import in_blocks, quantize_absmax

_SMALLEST_SCALE = 1e-38  # a block of zeros is divided by this instead of by zero


@dataclass(frozen=True, eq=False)
class Rounded:
    """A weight in blocks, each number next to the nearest of `values` times its block's largest magnitude.

    ranks:  uint8 [blocks * block_size], places in `values`
    scaled: float32 [blocks, block_size], from -1 to 1: what was rounded
    absmax: float32 [blocks]
    values: float32 [n], ascending
    """

    ranks: Tensor
    scaled: Tensor
    absmax: Tensor
    values: Tensor
    shape: torch.Size

    def weight(self, double_quant: bool) -> Tensor:
        """float32 [*shape]: as it is computed with.

        double_quant: the scales are rounded to 8 bits, too
        """
        absmax = nested_absmax(self.absmax) if double_quant else self.absmax
        blocks = self.units() * absmax[:, None]
        return blocks.view(-1)[: self.shape.numel()].view(self.shape)

    def units(self) -> Tensor:
        """float32 [blocks, block_size]: the values, before their scales."""
        return self.values.index_select(0, self.ranks.int()).view_as(self.scaled)


def round_to_values(weight: Tensor, values: tuple[float, ...], block_size: int) -> Rounded:
    """For NF4 and FP4 what `quantize_4bit` gives, without packing it.

    weight: any shape and float type
    values: ascending, from -1 to 1, at most 256
    """
    blocks = in_blocks(weight, block_size)
    absmax = blocks.abs().amax(dim=-1)
    scaled = (blocks * (1.0 / absmax.clamp(min=_SMALLEST_SCALE))[:, None]).clamp_(-1, 1)
    ranks = _ranks(scaled.view(-1), values)
    return Rounded(ranks, scaled, absmax, _on(values, weight.device), weight.shape)


def _ranks(scaled: Tensor, values: tuple[float, ...]) -> Tensor:
    if scaled.device.type == "cpu":
        return ranks_in(scaled, *_table(values))  # a seventh of the time that searching takes
    on_device = _on(values, scaled.device)
    return torch.bucketize(scaled, _bounds(on_device)).to(torch.uint8)


def _bounds(values: Tensor) -> Tensor:
    return (values[:-1] + values[1:]) / 2


@cache
def _on(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


@cache
def _table(values: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    return table_of(_bounds(_on(values, torch.device("cpu"))))


def nested_absmax(absmax: Tensor) -> Tensor:
    """float32 [blocks]: scales as double quantization keeps them, 8 bits each and a scale for 256."""
    codes, nested = quantize_absmax(absmax)
    scales = nested.scale.repeat_interleave(NESTED_BLOCK_SIZE)[: absmax.numel()]
    return nested.code[codes.int()] * scales + nested.offset


def stored_bits(weights: int, code_bits: int, block_size: int, double_quant: bool) -> int:
    """What so many weights of one layer take, scales included.

    Double quantization: 8 bits a scale, a float32 for 256 of them, and one for their mean.
    """
    scales = -(-weights // block_size)
    if not double_quant:
        return weights * code_bits + 32 * scales
    return weights * code_bits + 8 * scales + 32 * (-(-scales // NESTED_BLOCK_SIZE) + 1)
