"""Rows of a matrix that lies in the machine's memory, read by the card itself."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 1024  # of a row, that a program copies


def rows_in_ram_triton(table: Tensor, ids: Tensor) -> Tensor:
    """See `qlora_kernels.rows_in_ram`. ids: of a card"""
    columns = table.shape[1]
    rows = torch.empty(*ids.shape, columns, dtype=table.dtype, device=ids.device)
    with torch.cuda.device_of(ids):  # type: ignore[no-untyped-call]
        _rows_kernel[(ids.numel(), triton.cdiv(columns, _COLUMNS))](
            table, ids.contiguous(), rows, columns, COLUMNS=_COLUMNS
        )
    return rows


@triton.jit  # type: ignore[untyped-decorator]
def _rows_kernel(table, ids, rows, n_columns, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < n_columns
    row = tl.load(ids + place)
    tl.store(
        rows + place * n_columns + column,
        tl.load(table + row * n_columns + column, mask=exists),
        mask=exists,
    )
