"""Rows of a matrix that lies in the machine's memory, on the device where they are asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from qlora_kernels.triton import rows_in_ram_on_card


def rows_in_ram(table: Tensor, ids: Tensor) -> Tensor:
    """What `torch.nn.functional.embedding` gives, without gradient.

    table:   dtype [rows, columns], contiguous; pinned, where `ids` lie on a card, which then reads those rows
             past the processor and waits for nothing else
    ids:     int64 [...], of any device
    returns: dtype [..., columns], on that device
    """
    table = table.detach()
    return rows_in_ram_on_card(table, ids) if ids.is_cuda else torch.nn.functional.embedding(ids, table)
