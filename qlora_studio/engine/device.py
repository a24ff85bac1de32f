"""What the engine computes on: the first card, or the processor where there is none."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import cast

import psutil
import torch

from qlora_studio.memory.devices import processor_name

_TOLD = ("torch", "transformers", "bitsandbytes", "peft", "safetensors", "tokenizers", "qlora-studio")


@dataclass(frozen=True)
class Device:
    """`memory_bytes` is the card's, or the machine's where there is no card."""

    torch_device: torch.device
    name: str
    memory_bytes: int

    @property
    def kind(self) -> str:
        """cuda | cpu"""
        return self.torch_device.type

    @property
    def is_cuda(self) -> bool:
        """Whether it is a card."""
        return self.kind == "cuda"

    def free_bytes(self) -> int:
        """What could be allocated now, by anybody."""
        if self.is_cuda:
            return int(torch.cuda.mem_get_info(self.torch_device)[0])
        return int(psutil.virtual_memory().available)

    def empty_cache(self) -> None:
        """Gives back what torch keeps for later, and on a processor what the C library does.

        Freed tensors lie in the C library's heap between others that stay. It gives back its end alone by
        itself, so that the engine would grow from job to job, in steps, without a tensor more.
        """
        if self.is_cuda:
            from qlora_kernels.scratch import forget_scratch  # lazily: few jobs compute with its weights

            forget_scratch()
            with contextlib.suppress(RuntimeError):  # a card that failed has nothing to give back
                torch.cuda.empty_cache()
                _empty_host_cache()
        else:
            trim = _heap_trim()
            if trim is not None:
                trim(0)


def _empty_host_cache() -> None:
    """Pinned memory, which torch else keeps to the end."""
    found = getattr(torch.accelerator, "empty_host_cache", None)
    empty = found or getattr(torch._C, "_host_emptyCache", None)  # torch 2.11 has it by that name alone
    if empty is not None:
        empty()


@cache
def _heap_trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim(3), which gives back every free page of the heap; None with another C library."""
    if platform.libc_ver()[0] != "glibc":
        return None
    return cast("Callable[[int], int]", ctypes.CDLL(None).malloc_trim)


def find_device() -> Device:
    """The card that torch calls current, or the processor."""
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        properties = torch.cuda.get_device_properties(device)
        return Device(device, properties.name, int(properties.total_memory))
    return Device(torch.device("cpu"), processor_name(), int(psutil.virtual_memory().total))


def versions() -> dict[str, str]:
    """Of the libraries that decide what comes out."""
    found = {"python": platform.python_version()}
    for name in _TOLD:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # run from the source, not installed
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
