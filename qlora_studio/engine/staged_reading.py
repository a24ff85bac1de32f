"""Tensors from files onto the card: while one piece crosses over, the next is read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from qlora_studio.engine.pinned_memory import in_ram
from qlora_studio.errors import StudioError

_PIECE_BYTES = 64 * 2**20
_READERS = 4  # one copies 5 GB/s out of the system's cache (the host of an H100), less than the card takes
_LEAST_BYTES = 2**20  # that are worth a reader of their own


class StagedReading:
    """Through two pieces of memory that the card reads by itself.

    Memory that is made anew for each tensor costs the processor more than reading the file does.
    """

    def __init__(self, device: torch.device, piece_bytes: int = _PIECE_BYTES) -> None:
        self._device = device
        on_card = device.type == "cuda"
        self._pieces = [in_ram((piece_bytes,), torch.uint8, pinned=on_card) for _ in range(2)]
        self._crossed = [_event() if on_card else None for _ in self._pieces]
        self._next = 0
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read-weights")

    def close(self) -> None:
        """Ends its threads."""
        self._readers.shutdown()

    def read(
        self, file: BinaryIO, offset: int, size: int, dtype: torch.dtype, shape: tuple[int, ...], path: Path
    ) -> Tensor:
        """On the device, where it may still be on its way. Raises: StudioError where the file ends before."""
        found = torch.empty(size, dtype=torch.uint8, device=self._device)
        for start in range(0, size, len(self._pieces[0])):
            piece, crossed = self._pieces[self._next], self._crossed[self._next]
            self._next = 1 - self._next
            if crossed is not None:
                crossed.synchronize()  # what it held before
            piece = piece[: size - start]
            if not self._read_into(piece.numpy().data, file, offset + start):
                raise StudioError(f"{path} became shorter while it was read.")
            found[start : start + len(piece)].copy_(piece, non_blocking=True)
            if crossed is not None:
                crossed.record()
        return found.view(dtype).reshape(shape)

    def _read_into(self, piece: memoryview, file: BinaryIO, at: int) -> bool:
        """Whether there was as much."""
        if not hasattr(os, "preadv"):  # as on Windows
            file.seek(at)
            return bool(file.readinto(piece) == len(piece))  # type: ignore[attr-defined]
        share = max(-(-len(piece) // _READERS), _LEAST_BYTES)
        starts = range(0, len(piece), share)
        read = [
            self._readers.submit(_read_whole, file.fileno(), piece[start : start + share], at + start)
            for start in starts
        ]
        wait(read)  # for all: none may still write when this returns
        return all(part.result() for part in read)


def _read_whole(descriptor: int, part: memoryview, at: int) -> bool:
    while part:
        count = os.preadv(descriptor, [part], at)
        if not count:
            return False
        part, at = part[count:], at + count
    return True


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
