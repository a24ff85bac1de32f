"""The products of a few tokens with a 4-bit weight and its adapter, as when a reply is written.

Dequantizing a weight for one token moves six times the bytes that it has; here each is read once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlora_kernels.codebooks import four_bit_code

MOST_ROWS = 4
_PIECE = 128  # columns that few_rows.cu multiplies at once: two blocks of 64 weights
_BLOCK = 64
_TILE = 16  # rows of the weight
_LANES = 32
_LOW_RANK_WARPS = 8
_LONG = 8192  # columns from which more warps share them out

_log = logging.getLogger(__name__)


def takes(x: Tensor, weight: Sequence[Tensor], block_size: int, shape: Sequence[int]) -> bool:
    """Whether `product` computes this one."""
    rows = x.numel() // x.shape[-1]
    return (
        0 < rows <= MOST_ROWS
        and len(weight) > 1
        and shape[1] % _PIECE == 0
        and block_size % _BLOCK == 0
        and shape[1] % block_size == 0
        and _computes(x)
    )


def product(
    x: Tensor,
    weight: Sequence[Tensor],
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    bias: Tensor | None,
    low_rank: Tensor | None,
    lora_b: Tensor | None,
) -> Tensor:
    """See `qlora_kernels.linear.linear_4bit`. Values of codes are rounded to x's dtype, sums are float32."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    out = x.new_empty(len(rows), shape[0])
    packed, absmax, *nested = weight
    tiles = math.ceil(shape[0] / _TILE)
    processors = _processors(x.device)
    warps = 16 if tiles <= 2 * processors or shape[1] >= _LONG else 8
    kernel = _compiled("few_rows", len(rows), warps, bool(nested), x.dtype == torch.float16, x.device.index)
    rank = 0 if low_rank is None else low_rank.shape[-1]
    unread = absmax  # stands where nothing is read
    kernel(
        grid=(min(tiles, processors * 32 // warps), 1, 1),
        block=(warps * _LANES, 1, 1),
        args=[
            packed,
            absmax,
            *(nested or [unread] * 3),
            four_bit_code(quant_type, x.device),
            rows,
            unread if bias is None else bias,
            unread if low_rank is None else low_rank.contiguous(),
            unread if lora_b is None else lora_b.float().contiguous(),
            out,
            shape[0],
            shape[1],
            block_size,
            int(bias is not None),
            rank,
        ],
    )
    return out.view(*x.shape[:-1], shape[0])


def takes_low_rank(x: Tensor, lora_a: Tensor) -> bool:
    """Whether `low_rank` computes this one."""
    rows = x.numel() // x.shape[-1]
    return 0 < rows <= MOST_ROWS and lora_a.dtype == torch.float32 and x.shape[-1] % 4 == 0 and _computes(x)


def low_rank(x: Tensor, lora_a: Tensor, scaling: float) -> Tensor:
    """See `qlora_kernels.linear.low_rank_product`. Sums are float32."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    rank, columns = lora_a.shape
    out = x.new_empty(len(rows), rank)
    is_half = x.dtype == torch.float16
    kernel = _compiled("low_rank_of", 1, _LOW_RANK_WARPS, False, is_half, x.device.index)
    kernel(
        grid=(rank, len(rows), 1),
        block=(_LOW_RANK_WARPS * _LANES, 1, 1),
        args=[rows, lora_a.contiguous(), out, float(scaling), columns, rank],
    )
    return out.view(*x.shape[:-1], rank)


def _computes(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and _can_compile(x.device.index)


@cache
def _can_compile(device: int) -> bool:
    """Ampere or later, and an NVRTC that compiles for it."""
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        _compiled("low_rank_of", 1, _LOW_RANK_WARPS, False, False, device)
    except (RuntimeError, OSError, ImportError, AttributeError, ValueError) as error:
        _log.warning("Replies are written by the plain products: %s: %s", type(error).__name__, error)
        return False
    return True


@cache
def _compiled(
    name: str, tokens: int, warps: int, nested: bool, is_half: bool, device: int
) -> Callable[..., Any]:
    defined = {"TOKENS": tokens, "WARPS": warps}
    if nested:
        defined["NESTED"] = 1
    if is_half:
        defined["HALF"] = 1
    source = "".join(f"#define {key} {value}\n" for key, value in defined.items())
    with torch.cuda.device(device):
        kernel: Callable[..., Any] = torch.cuda._compile_kernel(
            source + Path(__file__).with_name("few_rows.cu").read_text("utf-8"), name
        )
    return kernel


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
