"""Attention of one new token over what is kept of the tokens before it, in memory that has room for more."""

from __future__ import annotations

import torch
from torch import Tensor

from qlora_kernels.cuda import one_query


@torch.library.custom_op("qlora::cached_attention", mutates_args=())
def cached_attention(
    query: Tensor, key: Tensor, value: Tensor, used: Tensor, starts: Tensor, scale: float, window: int
) -> Tensor:
    """softmax(scale * q K^T) V over the first `used` places, so that a recorded step serves any length.

    query:      dtype [texts, heads, head_dim]: one token of each text, the last of its `used`
    key, value: dtype [texts, capacity, kv_heads, head_dim]; each serves heads / kv_heads heads
    used:       int32 [texts]
    starts:     int32 [2, texts + 1]: where each text's query begins, and where its keys do, flat
    window:     tokens that one sees at most, its own included; 0: all
    returns:    dtype [texts, heads, head_dim]
    """
    groups = query.shape[1] // key.shape[2]
    keys, values = (part.float().repeat_interleave(groups, dim=2).transpose(1, 2) for part in (key, value))
    scores = (keys @ query.float()[..., None])[..., 0] * scale  # [texts, heads, capacity]
    at, end = torch.arange(key.shape[1], device=key.device), used[:, None]
    unseen = (at >= end) | (at < end - window) if window else at >= end
    weights = scores.masked_fill(unseen[:, None], -torch.inf).softmax(-1)
    found: Tensor = (weights[:, :, None] @ values)[:, :, 0].to(query.dtype)
    return found


@cached_attention.register_kernel("cuda")
def _(
    query: Tensor, key: Tensor, value: Tensor, used: Tensor, starts: Tensor, scale: float, window: int
) -> Tensor:
    """One kernel of ours, or flash attention 2 as torch has it, which takes two. source: arXiv:2307.08691"""
    if one_query.takes(query, key, value):
        return one_query.attend(query, key, value, used, scale, window)
    sides = {"window_size_left": window - 1, "window_size_right": 0} if window else {}
    out, *_ = torch.ops.aten._flash_attention_forward(
        query,
        key.flatten(0, 1),
        value.flatten(0, 1),
        starts[0],
        starts[1],
        1,
        key.shape[1],
        0.0,
        True,
        False,
        scale=scale,
        seqused_k=used,
        **sides,
    )
    assert isinstance(out, Tensor)
    return out


@cached_attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, used: Tensor, starts: Tensor, scale: float, window: int
) -> Tensor:
    return torch.empty_like(query)
