"""Causal attention over rows of one length, by cuDNN: on Hopper it takes 0.6 of flash attention 2's time.

Rows of unequal length are not for it: torch builds cuDNN's graph of them anew at each call, 40 ms.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

_TRIED_TOKENS = 64

_log = logging.getLogger(__name__)


def takes(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, window: int) -> bool:
    """Whether `attend` computes this; see `qlora_kernels.packed_attention`.

    No row is longer than `longest`: together they can only be rows x longest tokens if all are.
    """
    return (
        len(starts) > 1
        and (len(starts) - 1) * longest == len(query)
        and (not window or window >= longest)
        and query.shape[2] == value.shape[2]
        and _computes(query.shape[1], key.shape[1], query.shape[2], query.dtype, query.device)
    )


def attend(query: Tensor, key: Tensor, value: Tensor, longest: int, scale: float) -> tuple[Tensor, Tensor]:
    """Output and log sums of `packed_attention`, in its shapes."""
    by_row = (_by_row(tensor, longest) for tensor in (query, key, value))
    out, log_sums, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        *by_row, None, True, 0.0, True, False, scale=scale
    )
    return _tokens_first(out), log_sums.squeeze(-1).transpose(0, 1).reshape(query.shape[1], len(query))


def gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sums: Tensor,
    longest: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of query, key and value, each of its shape."""
    by_row = [_by_row(tensor, longest) for tensor in (grad.contiguous(), query, key, value, out)]
    sums = log_sums.view(query.shape[1], -1, longest).transpose(0, 1).contiguous().unsqueeze(-1)
    unread = query.new_empty((), dtype=torch.int64)  # the seeds of a dropout that there isn't
    grads = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        *by_row, sums, unread, unread, None, None, None, longest, longest, 0.0, True, scale=scale
    )
    of_query, of_key, of_value = map(_tokens_first, grads)
    return of_query, of_key, of_value


@cache
def _computes(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> bool:
    """On Hopper and later, where a small one succeeds: what cuDNN takes differs by its version."""
    if torch.version.hip or torch.cuda.get_device_capability(device) < (9, 0):
        return False
    if dtype not in (torch.bfloat16, torch.float16) or head_dim % 8:
        return False
    query = torch.zeros(_TRIED_TOKENS, heads, head_dim, dtype=dtype, device=device)
    key = torch.zeros(_TRIED_TOKENS, kv_heads, head_dim, dtype=dtype, device=device)
    try:
        out, log_sums = attend(query, key, key, _TRIED_TOKENS, 1.0)
        gradients(query, query, key, key, out, log_sums, _TRIED_TOKENS, 1.0)
    except RuntimeError as error:
        words = str(error).strip().partition("\n")[0]
        _log.info("Attention over equal rows stays flash attention 2: cuDNN refuses it: %s", words)
        return False
    return True


def _by_row(tensor: Tensor, longest: int) -> Tensor:
    """[t, heads, head_dim] as [rows, heads, longest, head_dim], in the same memory."""
    return tensor.view(-1, longest, *tensor.shape[1:]).transpose(1, 2)


def _tokens_first(tensor: Tensor) -> Tensor:
    """`_by_row` taken back; in the same memory where cuDNN laid it out as its input was."""
    rows, heads, longest, head_dim = tensor.shape
    return tensor.transpose(1, 2).reshape(rows * longest, heads, head_dim)
