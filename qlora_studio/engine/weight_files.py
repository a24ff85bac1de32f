"""Writes a model's weights as safetensors, a tensor at a time: no more than one is ever in memory.

Format: 8 bytes of length, little-endian; a JSON object {name: {dtype, shape, data_offsets}}; the numbers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qlora_studio.runs.durable import synced_and_closed, write_new_file

SHARD_BYTES = 5_000_000_000  # what other programs split at
INDEX_FILE = "model.safetensors.index.json"
_NAMES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.uint8: "U8",
    torch.int64: "I64",
}


class Written(NamedTuple):
    """How a tensor will stand in its file."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_weights(
    folder: Path,
    tensors: Mapping[str, Written],
    tensor_of: Callable[[str], Tensor],
    shard_bytes: int = SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Says after each tensor how many bytes of numbers are written. At the end all is on the disk.

    metadata: what each file says of itself beside its tensors
    Raises: OSError, and what `tensor_of` raises.
    """
    shards = _shards(tensors, shard_bytes)
    files = _file_names(len(shards))
    written = 0
    for file, names in zip(files, shards, strict=True):
        here = {name: tensors[name] for name in names}
        for count in write_tensors(folder / file, here, tensor_of, metadata):
            written += count
            yield written
    if len(files) > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": written}, "weight_map": weight_map}
        write_new_file(folder / INDEX_FILE, json.dumps(index, indent=2).encode())


def write_tensors(
    file: Path,
    tensors: Mapping[str, Written],
    tensor_of: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """One file. Says after each tensor the bytes of its numbers. Raises: as `write_weights`."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0))
    with synced_and_closed(descriptor):
        _write_all(descriptor, _header(tensors, metadata or {}))
        for name in tensors:
            data = tensor_of(name).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            _write_all(descriptor, data)
            yield data.nbytes
            del data  # before the next one is made


def _shards(tensors: Mapping[str, Written], shard_bytes: int) -> list[list[str]]:
    """Which tensors share a file; each has at least one."""
    shards: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        if not shards or tensor.bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= tensor.bytes
    return shards


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _header(tensors: Mapping[str, Written], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    at = 0
    for name, tensor in tensors.items():
        end = at + tensor.bytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [at, end]}
        at = end
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)  # so that numbers in the mapped file are aligned
    return len(data).to_bytes(8, "little") + data


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
