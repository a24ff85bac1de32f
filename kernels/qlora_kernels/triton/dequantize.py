"""4-bit codes and double-quantized scales to weights, in one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from qlora_kernels.codebooks import four_bit_code
from qlora_kernels.dequantize import NESTED_BLOCK_SIZE

_WEIGHTS_A_PROGRAM, _WARPS = 8192, 8  # H100, 14336 x 4096: 53.5 us; 4096 with 4 warps 55.2


def dequantize_4bit_triton(
    packed: Tensor,
    absmax: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    absmax_scale: Tensor | None = None,
    absmax_code: Tensor | None = None,
    absmax_offset: Tensor | None = None,
    into: Tensor | None = None,
) -> Tensor:
    """See `qlora_kernels.dequantize.dequantize_4bit`, to which it is equal bit for bit.

    into: dtype [*shape], where it is written, if not in memory of its own; its rows may lie apart where each
          is whole blocks
    """
    weights = packed.new_empty(list(shape), dtype=dtype) if into is None else into
    apart = not weights.is_contiguous()
    if apart and (shape[-1] % block_size or weights.stride(-1) != 1):
        scales = (absmax_scale, absmax_code, absmax_offset)
        return weights.copy_(
            dequantize_4bit_triton(packed, absmax, block_size, quant_type, shape, dtype, *scales)
        )
    values = four_bit_code(quant_type, packed.device)
    blocks_a_program = max(1, _WEIGHTS_A_PROGRAM // block_size)
    nested = absmax_scale is not None
    with torch.cuda.device_of(packed):  # type: ignore[no-untyped-call]
        _dequantize_kernel[(triton.cdiv(absmax.numel(), blocks_a_program),)](
            packed,
            absmax,
            values,
            weights,
            absmax_scale if nested else absmax,  # not read unless NESTED
            absmax_code if nested else absmax,
            absmax_offset if nested else absmax,
            absmax.numel(),
            prod(shape),
            shape[-1],
            weights.stride(0),
            APART=apart,
            NESTED=nested,
            NESTED_BLOCK=NESTED_BLOCK_SIZE,
            BLOCKS=blocks_a_program,
            BLOCK_BYTES=block_size // 2,
            num_warps=_WARPS,
            enable_fp_fusion=False,  # code * scale + offset is rounded twice in bitsandbytes, and so here
        )
    return weights


@triton.jit  # type: ignore[untyped-decorator]
def _dequantize_kernel(  # type: ignore[no-untyped-def]
    packed,
    absmax,
    values,
    weights,
    absmax_scale,
    absmax_code,
    absmax_offset,
    n_blocks,
    numel,
    columns,
    from_row_to_row,
    APART: tl.constexpr,
    NESTED: tl.constexpr,
    NESTED_BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    exists = block < n_blocks
    if NESTED:
        code = tl.load(absmax + block, mask=exists, other=0).to(tl.int32)
        second = tl.load(absmax_scale + block // NESTED_BLOCK, mask=exists, other=0.0)
        scale = tl.load(absmax_code + code) * second + tl.load(absmax_offset)
    else:
        scale = tl.load(absmax + block, mask=exists, other=0.0)

    byte = block[:, None] * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)[None, :]
    codes = tl.load(packed + byte, mask=2 * byte < numel, other=0).to(tl.int32)
    high = tl.load(values + (codes >> 4)) * scale[:, None]
    low = tl.load(values + (codes & 0xF)) * scale[:, None]

    index = block[:, None] * (2 * BLOCK_BYTES) + tl.arange(0, 2 * BLOCK_BYTES)[None, :]
    both = tl.reshape(tl.join(high, low), (BLOCKS, 2 * BLOCK_BYTES))
    place = index
    if APART:
        # In 64 bit this division took 11 us of 68 (H100, gate and up of Llama 8B, each).
        row = block.to(tl.int32) // (columns // (2 * BLOCK_BYTES))
        place = index + (row.to(tl.int64) * (from_row_to_row - columns))[:, None]
    tl.store(weights + place, both.to(weights.dtype.element_ty), mask=index < numel)
