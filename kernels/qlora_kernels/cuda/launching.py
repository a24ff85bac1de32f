"""CUDA kernels compiled where they run, by the NVRTC that torch brings, and started by the driver."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_STARTS_EARLY = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_RECORDS_EARLY_STARTS = 12_030  # CUDA 12.3
_SMALL_SHARED = 48 * 1024  # bytes of shared memory that need no asking


class Kernel:
    """One function of a file beside this one, with what the file leaves to be defined."""

    def __init__(
        self, file: str, name: str, defined: dict[str, int], device: int, *, shared_bytes: int = 0
    ) -> None:
        """shared_bytes: of memory that a block gets beside what the kernel declares.

        Raises: RuntimeError, OSError, AttributeError where it can't be compiled here.
        """
        self._early = can_start_early(device)
        self._shared_bytes = shared_bytes
        defined = defined | ({"EARLY": 1} if self._early else {})
        source = "".join(f"#define {key} {value}\n" for key, value in defined.items())
        with torch.cuda.device(device):
            compiled = torch.cuda._compile_kernel(
                source + Path(__file__).with_name(file).read_text("utf-8"), name
            )
            if shared_bytes >= _SMALL_SHARED:
                compiled.set_shared_memory_config(shared_bytes)
        self._compiled = compiled  # holds the module
        self._function: Any = compiled.func

    def start(self, grid: tuple[int, ...], threads: int, arguments: Sequence[Any]) -> None:
        """grid: blocks of threads, up to three dimensions

        arguments: tensors, ctypes values, Python's int (32 bits) and float (32 bits).

        On Hopper it may start while the kernel before it runs: each waits by itself before it reads what
        others wrote (`wait_for_kernels_before`).
        """
        values = [_as_c(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        early = (_Attribute * 1)(_Attribute(_STARTS_EARLY, 0, 1))
        stream = torch.cuda.current_stream().cuda_stream
        config = _Config(*(*grid, 1, 1)[:3], threads, 1, 1, self._shared_bytes, stream, early, self._early)
        require(driver().cuLaunchKernelEx(ctypes.byref(config), self._function, pointers, None))


def can_start_early(device: int) -> bool:
    """Whether a kernel can be started before the one before it ends, in a recording too."""
    version = ctypes.c_int()
    driver().cuDriverGetVersion(ctypes.byref(version))
    return version.value >= _RECORDS_EARLY_STARTS and torch.cuda.get_device_capability(device) >= (9, 0)


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute, of which the value's first 4 bytes are ours."""

    _fields_ = (
        ("id", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("value", ctypes.c_int),
        ("rest", ctypes.c_byte * 60),
    )


class _Config(ctypes.Structure):
    """CUlaunchConfig"""

    _fields_ = (
        *((name, ctypes.c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    )


def _as_c(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    return ctypes.c_float(argument) if isinstance(argument, float) else argument


def require(failed: int) -> None:
    """failed: what a function of the driver gave. Raises: RuntimeError with the driver's words."""
    if failed:
        words = ctypes.c_char_p()
        driver().cuGetErrorString(failed, ctypes.byref(words))
        raise RuntimeError(f"CUDA error: {(words.value or b'unknown').decode()}")


@cache
def driver() -> Any:
    """The library of the card's driver. Raises: OSError where there is none."""
    from torch.cuda._utils import _get_gpu_runtime_library

    return _get_gpu_runtime_library()
