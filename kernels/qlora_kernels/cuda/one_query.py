"""Attention of one token over a cache, in one kernel; see `qlora_kernels.cached_attention`."""

from __future__ import annotations

import logging
import math
from functools import cache

import torch
from torch import Tensor

from qlora_kernels.cuda.launching import Kernel

_HEAD_DIMS = (64, 128, 256)
_MOST_GROUPS = 8
_MOST_HEADS = 4096  # of all texts' keys
_THREADS = 128
_TOKENS_A_SPLIT = 64
_FEWEST_SPLITS, _MOST_SPLITS = 8, 64

_log = logging.getLogger(__name__)


def takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `attend` computes this one."""
    groups = query.shape[1] // key.shape[2]
    return (
        query.dtype in (torch.bfloat16, torch.float16)
        and query.dtype == key.dtype == value.dtype
        and query.shape[2] in _HEAD_DIMS
        and key.shape == value.shape
        and groups <= _MOST_GROUPS
        and key.shape[0] * key.shape[2] <= _MOST_HEADS
        and key.is_contiguous()
        and value.is_contiguous()
        and _can_compile(query.device.index)
    )


def attend(query: Tensor, key: Tensor, value: Tensor, used: Tensor, scale: float, window: int) -> Tensor:
    """See `cached_attention`. Scores, weights and sums are float32."""
    texts, heads, head_dim = query.shape
    capacity, kv_heads = key.shape[1:3]
    splits = min(max(_FEWEST_SPLITS, capacity // _TOKENS_A_SPLIT), _MOST_SPLITS)
    splits = 2 ** (splits.bit_length() - 1)  # few kernels are compiled
    groups = heads // kv_heads
    parts = query.new_empty(texts * kv_heads * splits, groups * (head_dim + 2), dtype=torch.float32)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    kernel = _compiled(head_dim, groups, splits, query.dtype == torch.float16, query.device.index)
    kernel.start(
        (splits, kv_heads, texts),
        _THREADS,
        [
            query.contiguous(),
            key,
            value,
            used,
            out,
            parts,
            _done(query.device),
            capacity,
            window,
            scale / math.log(2),
        ],
    )
    return out


@cache
def _done(device: torch.device) -> Tensor:
    """One for a card: no two of these kernels run side by side on it."""
    return torch.zeros(_MOST_HEADS, dtype=torch.int32, device=device)


@cache
def _can_compile(device: int) -> bool:
    """Ampere or later, and an NVRTC that compiles for it."""
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        _compiled(128, 4, _FEWEST_SPLITS, False, device)
    except (RuntimeError, OSError, ImportError, AttributeError, ValueError) as error:
        _log.warning("Replies attend by flash attention: %s: %s", type(error).__name__, error)
        return False
    return True


@cache
def _compiled(head_dim: int, groups: int, splits: int, is_half: bool, device: int) -> Kernel:
    defined = {"HEAD_DIM": head_dim, "GROUPS": groups, "SPLITS": splits}
    return Kernel("one_query.cu", "attend", defined | ({"HALF": 1} if is_half else {}), device)
