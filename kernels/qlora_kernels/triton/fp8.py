"""4-bit codes to e4m3 with a scale a row, in one kernel; also transposed, for the backward product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from qlora_kernels.codebooks import four_bit_code
from qlora_kernels.dequantize import NESTED_BLOCK_SIZE

_ROWS, _COLUMNS = 128, 64  # of the weight, that a program makes; H100: 64, 128 take 3 to 7 % longer


def fp8_weight_triton(
    weight: Sequence[Tensor],
    scales: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    transposed: bool,
    into: Tensor | None = None,
) -> Tensor:
    """See `qlora_kernels.fp8.fp8_weight`. A block's scale is divided by the row's first, so some values are
    rounded the other way there.
    """
    packed, absmax, *nested = weight
    rows, columns = shape
    size = (columns, rows) if transposed else (rows, columns)
    whole = packed.new_empty(size, dtype=torch.float8_e4m3fn) if into is None else into
    second, code, offset = nested or (absmax, absmax, absmax)  # not read unless NESTED
    with torch.cuda.device_of(packed):  # type: ignore[no-untyped-call]
        _fp8_kernel[(triton.cdiv(rows, _ROWS), triton.cdiv(columns, _COLUMNS))](
            packed,
            absmax,
            four_bit_code(quant_type, packed.device),
            scales,
            whole,
            second,
            code,
            offset,
            rows,
            columns,
            whole.stride(0),
            NESTED=bool(nested),
            NESTED_BLOCK=NESTED_BLOCK_SIZE,
            BLOCK=block_size,
            SHARED=min(block_size, _COLUMNS),
            ROWS=_ROWS,
            COLUMNS=_COLUMNS,
            TRANSPOSED=transposed,
        )
    return whole


@triton.jit  # type: ignore[untyped-decorator]
def _fp8_kernel(  # type: ignore[no-untyped-def]
    packed,
    absmax,
    values,
    scales,
    whole,
    absmax_scale,
    absmax_code,
    absmax_offset,
    n_rows,
    n_columns,
    stride,
    NESTED: tl.constexpr,
    NESTED_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    SHARED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    # A block's scale is looked up once, and not for each of its codes: blocks begin where rows do.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS // SHARED) * SHARED
    has_scale = (row < n_rows)[:, None] & (start < n_columns)[None, :]
    block = (row[:, None] * n_columns + start[None, :]) // BLOCK
    if NESTED:
        nth = tl.load(absmax + block, mask=has_scale, other=0).to(tl.int32)
        second = tl.load(absmax_scale + block // NESTED_BLOCK, mask=has_scale, other=0.0)
        scale = tl.load(absmax_code + nth) * second + tl.load(absmax_offset)
    else:
        scale = tl.load(absmax + block, mask=has_scale, other=0.0)
    scale = (scale / tl.load(scales + row, mask=row < n_rows, other=1.0)[:, None])[:, :, None]

    byte = (start // 2)[None, :, None] + tl.arange(0, SHARED // 2)[None, None, :]
    exists = (row < n_rows)[:, None, None] & (2 * byte < n_columns)
    codes = tl.load(packed + row[:, None, None] * (n_columns // 2) + byte, mask=exists, other=0).to(tl.int32)
    high = tl.load(values + (codes >> 4)) * scale
    low = tl.load(values + (codes & 0xF)) * scale
    both = tl.reshape(tl.join(high, low), (ROWS, COLUMNS))
    # A sum of roundings may lie a hair above what e4m3 holds, and what it doesn't hold is NaN.
    both = tl.minimum(tl.maximum(both, -448.0), 448.0).to(whole.dtype.element_ty)

    column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    if TRANSPOSED:
        at = column[:, None] * stride + row[None, :]
        tl.store(whole + at, tl.trans(both), mask=(column < n_columns)[:, None] & (row < n_rows)[None, :])
    else:
        at = row[:, None] * stride + column[None, :]
        tl.store(whole + at, both, mask=(row < n_rows)[:, None] & (column < n_columns)[None, :])
