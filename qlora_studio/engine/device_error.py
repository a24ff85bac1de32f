"""A card that failed under a running program: nothing of this process can use it any more."""

from __future__ import annotations

import torch

from qlora_studio.engine.device import Device
from qlora_studio.engine.out_of_memory import is_out_of_memory
from qlora_studio.protocol.events import Problem

_SAID = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS")
_LONGEST = 200  # characters of what it said


def is_device_error(error: BaseException) -> bool:
    """Such as a launch that failed, or a card that is off the bus. Want of memory is none."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in _SAID)


def device_error(error: BaseException, doing: str, device: Device) -> Problem:
    """doing: such as "at step 12"."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0][:_LONGEST]
    return Problem(
        f"{device.name} failed {doing}: {first_line.rstrip('.')}.",
        "Resume it. If that comes again, see whether `nvidia-smi` lists the card, or restart the computer.",
    )
