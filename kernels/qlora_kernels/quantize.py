"""Quantizing to 4 bit on a CPU, bit for bit as bitsandbytes does, in a third of its time.

bitsandbytes searches each number among the 15 bounds between two codes. Here a number's place in a fine table
says at once how many bounds lie below it: at most one bound lies at a place, and only with it is compared.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from qlora_kernels.codebooks import four_bit_code

_HALF = 1 << 11  # places for the numbers from 0 to 1: bounds lie at least five apart
PLACES = 2 * _HALF + 1
_SMALLEST = 1e-38  # divides a block of zeros, as bitsandbytes has it


@cache
def use_on_cpu() -> None:
    """From now on bitsandbytes quantizes 4-bit weights on a CPU by this module.

    Where a version brings a kernel of its own for the CPU, that one stays.
    """
    import bitsandbytes  # noqa: F401  # names the operation

    name = "bitsandbytes::quantize_4bit"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU"):
        torch.library.register_kernel(name, "cpu", quantize_4bit)


def quantize_4bit(
    A: Tensor, blocksize: int, quant_type: str, quant_storage: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Codes two to a byte [bytes, 1] in `quant_storage`, and float32 [blocks]: the largest number of each.

    A: any shape and float type; finite (what codes other numbers get isn't said)
    """
    flat = A.reshape(-1).float()
    whole = flat.numel() // blocksize * blocksize
    blocks = flat[:whole].view(-1, blocksize)
    largest = blocks.abs().amax(-1)
    scaled = (blocks * (1.0 / largest.clamp(min=_SMALLEST))[:, None]).clamp_(-1, 1).view(-1)
    if whole < flat.numel():
        rest = flat[whole:].abs().max().clamp(min=_SMALLEST)
        largest = torch.cat((largest, rest[None]))
        scaled = torch.cat((scaled, (flat[whole:] / rest).clamp_(-1, 1)))
    if scaled.numel() % 2:
        scaled = torch.nn.functional.pad(scaled, (0, 1))
    codes = _codes(scaled, quant_type)
    packed = (codes[::2] << 4).bitwise_or_(codes[1::2])
    return packed.view(quant_storage).unsqueeze(1), largest


def _codes(scaled: Tensor, quant_type: str) -> Tensor:
    """uint8, of float32 from -1 to 1."""
    below, bound, order = _table(quant_type)
    rank = ranks_in(scaled, below, bound)
    return rank if quant_type == "nf4" else order.index_select(0, rank.int())


@cache
def _table(quant_type: str) -> tuple[Tensor, Tensor, Tensor]:
    """For each place: how many bounds lie at places below it, and the bound that lies at it (or infinity).
    Then the code of each rank.
    """
    code = four_bit_code(quant_type, torch.device("cpu"))
    order = torch.argsort(code)
    bounds = (code[order[:-1]] + code[order[1:]]) / 2
    return *table_of(bounds), order.to(torch.uint8)


def table_of(bounds: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [PLACES], how many bounds lie at places below; float32 [PLACES], the bound at it or infinity.

    bounds: float32, ascending, at most 255, no two of them at one place
    """
    below = torch.zeros(PLACES, dtype=torch.uint8)
    bound = torch.full((PLACES,), torch.inf)
    for place, value in zip(places_of(bounds).tolist(), bounds.tolist(), strict=True):
        below[place + 1 :] += 1
        bound[place] = value
    return below, bound


def ranks_in(scaled: Tensor, below: Tensor, bound: Tensor) -> Tensor:
    """uint8 [n]: how many bounds lie below each number.

    scaled: float32 [n], from -1 to 1
    """
    places = places_of(scaled)
    return below.index_select(0, places).add_(scaled > bound.index_select(0, places))


def places_of(scaled: Tensor) -> Tensor:
    """int32 from 0 to PLACES - 1; the larger a number from -1 to 1, the further its place, or the same."""
    return (scaled * _HALF).add_(_HALF).int().clamp_(0, 2 * _HALF)
