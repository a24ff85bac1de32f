"""Memory that card and processor share: brought to the card before its kernels ask, and given back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from qlora_kernels.cuda.launching import driver, require


def bring_to_card(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Begun on a stream of its own, beside what the card computes; a kernel that needs it sooner fetches it.

    tensors: in memory of cudaMallocManaged. Not to be called while this thread records a CUDA graph.
    Raises: RuntimeError, OSError, AttributeError where the driver doesn't do it.
    source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__UNIFIED.html (cuMemPrefetchAsync)
    """
    number = ctypes.c_int()
    require(driver().cuDeviceGet(ctypes.byref(number), ctypes.c_int(device.index)))
    stream = ctypes.c_void_p(_stream(device).cuda_stream)
    for tensor in tensors:
        start, size = ctypes.c_uint64(tensor.data_ptr()), ctypes.c_size_t(tensor.nbytes)
        require(driver().cuMemPrefetchAsync(start, size, number, stream))


def give_back(tensors: Iterable[Tensor]) -> None:
    """For good: whoever reads one of them afterwards ends the process.

    tensors: each the whole of what cudaMallocManaged gave
    Raises: RuntimeError, OSError, AttributeError where the driver doesn't do it.
    source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__MEM.html (cuMemFree)
    """
    for start in [tensor.data_ptr() for tensor in tensors]:
        require(driver().cuMemFree_v2(ctypes.c_uint64(start)))


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
