"""The number format of the arithmetic: what was asked for, or what this device does fastest."""

from __future__ import annotations

import time

import torch

from qlora_studio.engine.device import Device
from qlora_studio.errors import StudioError

_BY_NAME = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_SIZE = 256  # of the matrices that are timed: 0.03 GFLOP, a few ms also where it is emulated


def resolve_compute_dtype(name: str, device: Device) -> torch.dtype:
    """`auto` becomes bfloat16 where the device computes it well; else float16 on a card, float32 on a CPU."""
    if name != "auto":
        return dtype_of(name)
    if device.is_cuda:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _bfloat16_is_faster() else torch.float32


def dtype_of(name: str) -> torch.dtype:
    """Raises: StudioError where `name` is no format to compute in."""
    if name not in _BY_NAME:
        raise StudioError(f"{name!r} is no number format; it must be one of {', '.join(_BY_NAME)}.")
    return _BY_NAME[name]


def name_of(dtype: torch.dtype) -> str:
    """As settings and run.json write it."""
    return str(dtype).removeprefix("torch.")


def _bfloat16_is_faster() -> bool:
    """Measured: with AVX512-BF16 or AMX it is 2 to 8 times as fast, without them 10 times slower."""
    return _matrix_seconds(torch.bfloat16) < _matrix_seconds(torch.float32)


def _matrix_seconds(dtype: torch.dtype) -> float:
    a, b = torch.ones(_SIZE, _SIZE, dtype=dtype), torch.ones(_SIZE, _SIZE, dtype=dtype)
    a @ b  # the first one also chooses and loads the kernel
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return min(seconds)  # what it can do, whatever else runs on the machine
