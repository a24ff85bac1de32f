"""Causal attention over rows packed into one sequence of tokens: each row sees itself alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qlora_kernels.cuda import equal_rows
from qlora_kernels.operations import operation, operation_without_gradient, register_fake


def _attend_on_card(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float, window: int
) -> tuple[Tensor, Tensor]:
    """cuDNN's where it takes the rows; else flash attention 2, as torch has it. source: arXiv:2307.08691"""
    if equal_rows.takes(query, key, value, starts, longest, window):
        return equal_rows.attend(query, key, value, longest, scale)
    out, log_sums, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, starts, starts, longest, longest, 0.0, True, False, scale=scale, **_sides(window)
    )
    return out, log_sums


@operation("qlora::packed_attention", on_card=_attend_on_card)
def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float, window: int
) -> tuple[Tensor, Tensor]:
    """softmax(scale * Q K^T) V within each row, over a token's own row up to itself.

    query:      dtype [t, heads, head_dim]
    key, value: dtype [t, kv_heads, head_dim]; each serves heads / kv_heads heads, and is never repeated
    starts:     int32 [rows + 1]: where each row begins, and the end t
    longest:    no row has more tokens
    window:     tokens that one sees at most, its own included; 0: all
    returns:    dtype [t, heads, head_dim]; and the logarithms of the softmax's denominators for the backward,
                float32 [heads, t]
    """
    out, log_sums = torch.empty_like(query), query.new_empty(query.shape[1], len(query), dtype=torch.float32)
    for row in _rows(starts):
        scores = _scores(query[row], key[row], scale, window)
        log_sums[:, row] = torch.logsumexp(scores, dim=-1)
        weights = torch.exp(scores - log_sums[:, row, None])
        out[row] = (weights @ _heads_first(value[row], query)).transpose(0, 1).to(out.dtype)
    return out, log_sums


@packed_attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float, window: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)


def _gradients_on_card(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sums: Tensor,
    starts: Tensor,
    longest: int,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    if equal_rows.takes(query, key, value, starts, longest, window):
        return equal_rows.gradients(grad, query, key, value, out, log_sums, longest, scale)
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=query.device)
    grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad.contiguous(),
        query,
        key,
        value,
        out,
        log_sums,
        starts,
        starts,
        longest,
        longest,
        0.0,
        True,
        no_dropout,
        no_dropout[:0],
        scale=scale,
        **_sides(window),
    )
    return grads


@operation_without_gradient("qlora::packed_attention_backward", on_card=_gradients_on_card)
def packed_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sums: Tensor,
    starts: Tensor,
    longest: int,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, each of its shape. The scores are made again."""
    grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    for row in _rows(starts):
        q, k, v, g = (_heads_first(tensor[row], query) for tensor in (query, key, value, grad))
        weights = torch.exp(_scores(query[row], key[row], scale, window) - log_sums[:, row, None])
        grad_weights = g @ v.mT
        through = (g * _heads_first(out[row], query)).sum(dim=-1, keepdim=True)
        grad_scores = weights * (grad_weights - through) * scale
        for whole, part in zip(grads, (grad_scores @ k, grad_scores.mT @ q, weights.mT @ g), strict=True):
            groups = part.view(whole.shape[1], -1, *part.shape[1:]).sum(dim=1)
            whole[row] = groups.transpose(0, 1).to(whole.dtype)
    return grads


@register_fake("qlora::packed_attention_backward")
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sums: Tensor,
    starts: Tensor,
    longest: int,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, starts, ctx.longest, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(query, key, value, *output, starts)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    grads = packed_attention_backward(grad, *ctx.saved_tensors, ctx.longest, ctx.scale, ctx.window)
    return (*grads, None, None, None, None)


packed_attention.register_autograd(_backward, setup_context=_save)


def _rows(starts: Tensor) -> Iterator[slice]:
    bounds = starts.tolist()
    return (slice(start, end) for start, end in itertools.pairwise(bounds) if end > start)


def _scores(query: Tensor, key: Tensor, scale: float, window: int) -> Tensor:
    """float32 [heads, n, n] of a row of n tokens; -inf where one isn't seen."""
    at = torch.arange(len(query), device=query.device)
    back = at[:, None] - at[None, :]
    unseen = (back < 0) | (back >= window) if window else back < 0
    scores: Tensor = _heads_first(query, query) @ _heads_first(key, query).mT * scale
    return scores.masked_fill(unseen, -torch.inf)


def _heads_first(tensor: Tensor, query: Tensor) -> Tensor:
    """[n, some heads, head_dim] to float32 [all heads, n, head_dim]."""
    return tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1).transpose(0, 1).float()


def _sides(window: int) -> dict[str, int]:
    return {"window_size_left": window - 1, "window_size_right": 0} if window else {}
