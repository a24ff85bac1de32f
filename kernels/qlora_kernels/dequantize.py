"""4-bit codes back to weights: the operation that every quantized layer starts with."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from qlora_kernels.codebooks import four_bit_pairs

NESTED_BLOCK_SIZE = 256  # scales a second-level scale; bitsandbytes knows no other


@torch.library.custom_op("qlora::dequantize_4bit", mutates_args=())
def dequantize_4bit(
    packed: Tensor,
    absmax: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    absmax_scale: Tensor | None = None,
    absmax_code: Tensor | None = None,
    absmax_offset: Tensor | None = None,
) -> Tensor:
    """NF4 or FP4 codes back to weights: value[code] * absmax[block], rounded once, to `dtype`.

    packed:        uint8 [ceil(numel / 2)], two codes a byte, high nibble first, row by row
    absmax:        float32 [blocks]; or, double-quantized, uint8 [blocks] with the three below:
                   absmax = absmax_code[codes] * absmax_scale[block of 256] + absmax_offset, each rounded
    absmax_scale:  float32 [ceil(blocks / 256)]
    absmax_code:   float32 [256]
    absmax_offset: float32 []
    returns:       dtype [*shape]; bit for bit what bitsandbytes gives
    source:        QLoRA, arXiv:2305.14314, section 3
    """
    if absmax_scale is not None:
        assert absmax_code is not None
        assert absmax_offset is not None
        scales = absmax_scale.repeat_interleave(NESTED_BLOCK_SIZE)[: absmax.numel()]
        absmax = absmax_code[absmax.int()] * scales + absmax_offset
    weights = torch.nn.functional.embedding(packed.int(), four_bit_pairs(quant_type, packed.device)).view(-1)
    missing = absmax.numel() * block_size - weights.numel()
    weights = torch.nn.functional.pad(weights, (0, missing)).view(-1, block_size)
    return (weights * absmax[:, None]).view(-1)[: prod(shape)].to(dtype).reshape(shape)


@dequantize_4bit.register_fake
def _(
    packed: Tensor,
    absmax: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    absmax_scale: Tensor | None = None,
    absmax_code: Tensor | None = None,
    absmax_offset: Tensor | None = None,
) -> Tensor:
    return packed.new_empty(list(shape), dtype=dtype)
