"""Attention over packed rows: its schema, its gradients, and what a row may see."""

from __future__ import annotations

import pytest
import torch
from qlora_kernels import packed_attention
from qlora_kernels.packed_attention import packed_attention_backward
from torch.nn.functional import scaled_dot_product_attention

LENGTHS = (7, 1, 12, 4)
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16


def arguments(window: int = 0):
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(sum(LENGTHS), heads, HEAD_DIM, requires_grad=True)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    starts = torch.tensor((0, *LENGTHS), dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return query, key, value, starts, max(LENGTHS), 0.25, window


def one_by_one(query, key, value, starts, longest, scale, window):
    rows = zip(*(tensor.split(LENGTHS) for tensor in (query, key, value)), strict=True)
    return torch.cat([_attended(*row, scale, window) for row in rows])


def _attended(query, key, value, scale, window):
    query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
    seen = torch.ones(query.shape[1], query.shape[1], dtype=torch.bool).tril()
    seen = seen.triu(1 - window) if window else seen
    out = scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale, enable_gqa=True)
    return out.transpose(0, 1)


@pytest.mark.parametrize("window", [0, 5])
def test_rows_and_their_gradients_are_those_of_each_row_alone(window):
    given = arguments(window)
    ours, theirs = packed_attention(*given)[0], one_by_one(*given)
    grad = torch.randn_like(ours)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, given[:3], grad), torch.autograd.grad(theirs, given[:3], grad)
    )


def test_an_empty_row_changes_nothing():
    query, key, value, starts, *rest = arguments()
    padded = torch.cat([starts, starts[-1:], starts[-1:]])
    torch.testing.assert_close(
        packed_attention(query, key, value, padded, *rest), packed_attention(query, key, value, starts, *rest)
    )


@pytest.mark.parametrize("window", [0, 5])
def test_opcheck_of_packed_attention(window):
    torch.library.opcheck(packed_attention, arguments(window))


def test_opcheck_of_its_backward():
    query, key, value, *rest = (
        given.detach() if isinstance(given, torch.Tensor) else given for given in arguments()
    )
    out, log_sums = packed_attention(query, key, value, *rest)
    torch.library.opcheck(
        packed_attention_backward, (torch.randn_like(out), query, key, value, out, log_sums, *rest)
    )
