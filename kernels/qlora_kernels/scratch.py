"""One piece of a card's memory for weights that are dequantized or rounded, multiplied with and forgotten.

Each from torch's allocator would leave a hole of its own size among the activations: H100, Llama 8B shape,
4 x 2048 tokens: 33.8 GiB reserved with them, 31.8 without.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

_ALIGNED = 256  # bytes: as CUDA's own allocations begin at the least
_held: dict[torch.device, Tensor] = {}


def scratch(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialized, dtype [*shape]; until the next one is asked for, on the stream that computes."""
    (made,) = scratches([shape], dtype, device)
    return made


def scratches(shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Several at once, as `scratch` gives one."""
    sizes = [prod(shape) * dtype.itemsize for shape in shapes]
    begins = list(accumulate((_aligned(size) for size in sizes[:-1]), initial=0))
    needed = begins[-1] + sizes[-1]
    piece = _piece(needed, device)
    return [
        piece[begin : begin + size].view(dtype).view(*shape)
        for begin, size, shape in zip(begins, sizes, shapes, strict=True)
    ]


def _piece(size: int, device: torch.device) -> Tensor:
    """uint8 [size or more]"""
    if device in _held and _held[device].numel() >= size:
        return _held[device]
    if torch.cuda.is_current_stream_capturing():  # what is made now belongs to the recording alone
        return torch.empty(size, dtype=torch.uint8, device=device)
    _held.pop(device, None)  # before the larger one is there: each longer batch makes its copies longer
    made = _held[device] = torch.empty(size, dtype=torch.uint8, device=device)
    return made


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def held_scratch(device: torch.device) -> Tensor | None:
    """For whoever recorded work that writes there: it must not be freed before that is played last."""
    return _held.get(device)


def forget_scratch() -> None:
    """Gives it back to torch."""
    _held.clear()
