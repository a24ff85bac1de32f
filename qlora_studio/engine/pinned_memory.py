"""Memory of the machine that a card copies from and to beside the computation: it never leaves its place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PinnedMemoryError(MemoryError):
    """The machine's memory lacks, not the card's. needed_bytes: that were asked for"""

    def __init__(self, needed_bytes: int) -> None:
        super().__init__(f"{needed_bytes:,} bytes could not be pinned")
        self.needed_bytes = needed_bytes


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A small one of the processor's, on the device. To a card it is on its way, behind what that computes by
    now, and nobody waits: from memory that isn't pinned torch or the driver would, for all of that.

    Raises: PinnedMemoryError.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return in_ram(tensor.shape, tensor.dtype, pinned=True).copy_(tensor).to(device, non_blocking=True)


def in_ram(shape: Sequence[int], dtype: torch.dtype, *, pinned: bool) -> Tensor:
    """Not filled. pinned: where a card is to reach it.

    Raises: PinnedMemoryError.
    """
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=pinned)
    except RuntimeError as error:
        # The driver calls it "out of memory", as it does where the card has none left.
        if not pinned or "out of memory" not in str(error):
            raise
        raise PinnedMemoryError(torch.Size(shape).numel() * dtype.itemsize) from error
