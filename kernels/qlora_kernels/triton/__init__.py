"""What runs on a card in place of the plain torch, loaded at the first call there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from qlora_kernels.dequantize import NESTED_BLOCK_SIZE, dequantize_4bit
from qlora_kernels.scratch import scratch


@dequantize_4bit.register_kernel("cuda")
def dequantize_on_card(
    packed: Tensor,
    absmax: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    absmax_scale: Tensor | None = None,
    absmax_code: Tensor | None = None,
    absmax_offset: Tensor | None = None,
    *,
    for_now: bool = False,
    into: Tensor | None = None,
) -> Tensor:
    """See `dequantize_4bit`.

    for_now: what comes out may be overwritten by the next one, see `scratch`
    into:    dtype [*shape], rows may lie apart: where it is written, if not in memory of its own
    """
    nested = (absmax_scale, absmax_code, absmax_offset)
    if not _has_triton():  # as on Windows
        whole = _dequantize_by_bitsandbytes(packed, absmax, block_size, quant_type, shape, dtype, *nested)
        return whole if into is None else into.copy_(whole)
    from qlora_kernels.triton.dequantize import dequantize_4bit_triton

    if for_now:
        into = scratch(shape, dtype, packed.device)
    return dequantize_4bit_triton(packed, absmax, block_size, quant_type, shape, dtype, *nested, into)


def rows_in_ram_on_card(table: Tensor, ids: Tensor) -> Tensor:
    """See `qlora_kernels.rows_in_ram`."""
    if not _has_triton():
        return torch.nn.functional.embedding(ids.cpu(), table).to(ids.device)
    from qlora_kernels.triton.rows_in_ram import rows_in_ram_triton

    return rows_in_ram_triton(table, ids)


def fp8_weight_on_card(
    weight: Sequence[Tensor],
    scales: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    transposed: bool,
    into: Tensor | None = None,
) -> Tensor:
    """See `qlora_kernels.fp8.fp8_weight` and, for `into`, `rounded_weight`."""
    if not _has_triton():
        packed, absmax, *nested = weight
        whole = dequantize_on_card(packed, absmax, block_size, quant_type, shape, torch.float32, *nested)
        rounded: Tensor = (whole / scales[:, None]).to(torch.float8_e4m3fn)
        rounded = rounded.t() if transposed else rounded
        return rounded.contiguous() if into is None else into.copy_(rounded)
    from qlora_kernels.triton.fp8 import fp8_weight_triton

    return fp8_weight_triton(weight, scales, block_size, quant_type, shape, transposed, into)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _dequantize_by_bitsandbytes(
    packed: Tensor,
    absmax: Tensor,
    block_size: int,
    quant_type: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    absmax_scale: Tensor | None,
    absmax_code: Tensor | None,
    absmax_offset: Tensor | None,
) -> Tensor:
    import bitsandbytes  # noqa: F401  (registers its operations)

    operations = torch.ops.bitsandbytes
    if absmax_scale is not None and absmax_offset is not None:
        absmax = operations.dequantize_blockwise(
            absmax, absmax_scale, absmax_code, NESTED_BLOCK_SIZE, torch.float32
        )
        absmax = absmax + absmax_offset
    weights: Tensor = operations.dequantize_4bit(
        packed.view(-1, 1), absmax, block_size, quant_type, list(shape), dtype
    )
    return weights
