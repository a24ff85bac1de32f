"""One piece of a card's memory for weights that are dequantized or rounded, multiplied with and forgotten.

Each from torch's allocator would leave a hole of its own size among the activations: H100, Llama 8B shape,
4 x 2048 tokens: 33.8 GiB reserved with them, 31.8 without.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

_held: dict[torch.device, Tensor] = {}


def scratch(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialized, dtype [*shape]; until the next one is asked for, on the stream that computes."""
    size = prod(shape) * dtype.itemsize
    held = _held.get(device)
    if held is None or held.numel() < size:
        if torch.cuda.is_current_stream_capturing():  # what is made now belongs to the recording alone
            return torch.empty(*shape, dtype=dtype, device=device)
        held = _held[device] = torch.empty(size, dtype=torch.uint8, device=device)
    return held[:size].view(dtype).view(*shape)


def held_scratch(device: torch.device) -> Tensor | None:
    """For whoever recorded work that writes there: it must not be freed before that is played last."""
    return _held.get(device)


def forget_scratch() -> None:
    """Gives it back to torch."""
    _held.clear()
