"""What lies between the products of a token, each in one kernel; see `qlora_kernels.one_token`."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from qlora_kernels.cuda.launching import Kernel

_THREADS = 256
_NORM_THREADS = 512
_MOST_COLUMNS = 16_384  # of a norm
_MOST_ROWS = 8  # that it is made for: each is one block of threads

_log = logging.getLogger(__name__)


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels here compute with these."""
    first = tensors[0]
    return (
        first.is_cuda
        and first.dtype in (torch.bfloat16, torch.float16)
        and all(tensor.dtype == first.dtype and tensor.is_contiguous() for tensor in tensors)
        and _can_compile(first.device.index)
    )


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """See `qlora_kernels.one_token.gated_silu`."""
    out = torch.empty_like(gate)
    blocks = -(-gate.numel() // _THREADS)
    _compiled("gated_silu", gate.dtype == torch.float16, gate.device.index).start(
        (blocks, 1), _THREADS, [gate, up, out, gate.numel()]
    )
    return out


def rotate(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """See `qlora_kernels.one_token.rotate`."""
    texts, heads, head_dim = query.shape
    rotated = torch.empty_like(query), torch.empty_like(key)
    _compiled("rotate", query.dtype == torch.float16, query.device.index).start(
        (texts, heads + key.shape[1]), _THREADS, [query, key, cosine, sine, *rotated, heads, head_dim]
    )
    return rotated


def keep_token(keys: Tensor, values: Tensor, key: Tensor, value: Tensor, place: Tensor) -> None:
    """See `qlora_kernels.one_token.keep_token`."""
    texts, width = key.shape
    _compiled("keep_token", keys.dtype == torch.float16, keys.device.index).start(
        (-(-width // _THREADS), texts), _THREADS, [keys, values, key, value, place, width]
    )


def takes_norm(x: Tensor, weight: Tensor) -> bool:
    """Whether `rms_norm` computes this one."""
    columns = x.shape[-1]
    return (
        columns % 8 == 0
        and columns <= _MOST_COLUMNS
        and x.numel() <= _MOST_ROWS * columns
        and takes(x, weight)
    )


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """See `qlora_kernels.one_token.rms_norm`."""
    out = torch.empty_like(x)
    columns = x.shape[-1]
    _compiled("rms_norm", x.dtype == torch.float16, x.device.index).start(
        (x.numel() // columns, 1), _NORM_THREADS, [x, weight, out, columns, float(epsilon)]
    )
    return out


@cache
def _can_compile(device: int) -> bool:
    """Ampere or later, and an NVRTC that compiles for it."""
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        _compiled("keep_token", False, device)
    except (RuntimeError, OSError, ImportError, AttributeError, ValueError) as error:
        _log.warning("Replies are written in plain steps: %s: %s", type(error).__name__, error)
        return False
    return True


@cache
def _compiled(name: str, is_half: bool, device: int) -> Kernel:
    return Kernel("one_token.cu", name, {"HALF": 1} if is_half else {}, device)
