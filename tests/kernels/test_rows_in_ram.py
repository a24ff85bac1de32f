"""Rows of a matrix in RAM, read by a card where there is one: those that torch's embedding gives."""

from __future__ import annotations

import pytest
import torch
from qlora_kernels.rows_in_ram import rows_in_ram
from torch.nn.functional import embedding

ON_CARD = torch.cuda.is_available()
DEVICE = "cuda" if ON_CARD else "cpu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("columns", [8, 1000, 4096])
@pytest.mark.parametrize("shape", [(1, 7), (2, 3, 5), (0,)], ids=str)
def test_rows_are_those_of_the_embedding(shape, columns, dtype):
    torch.manual_seed(0)
    table = torch.randn(50, columns, dtype=dtype)
    table = table.pin_memory() if ON_CARD else table
    ids = torch.randint(0, 50, shape, device=DEVICE)

    rows = rows_in_ram(table.requires_grad_(), ids)

    assert rows.device.type == DEVICE
    assert not rows.requires_grad
    assert torch.equal(rows.cpu(), embedding(ids.cpu(), table.detach()))


@pytest.mark.skipif(ON_CARD, reason="the test above does it")
@pytest.mark.parametrize("columns", [8, 1000, 2048])
def test_so_are_the_kernels_in_the_interpreter(columns):
    pytest.importorskip("triton", reason="triton isn't installed")
    from qlora_kernels.triton.rows_in_ram import rows_in_ram_triton

    table, ids = torch.randn(50, columns), torch.randint(0, 50, (2, 9))
    assert torch.equal(rows_in_ram_triton(table, ids), embedding(ids, table))
