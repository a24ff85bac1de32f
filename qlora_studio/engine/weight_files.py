"""Writes a model's weights as safetensors, a tensor at a time: no more than one is ever in memory.

Format: 8 bytes of length, little-endian; a JSON object {name: {dtype, shape, data_offsets}}; the numbers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlora_studio.runs.durable import synced_and_closed, write_new_file

SHARD_BYTES = 5_000_000_000  # what other programs split at
INDEX_FILE = "model.safetensors.index.json"
_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


def write_weights(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    tensor_of: Callable[[str], Tensor],
    shard_bytes: int = SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Says after each tensor how many bytes of numbers are written. At the end all is on the disk.

    metadata: what each file says of itself beside its tensors
    Raises: OSError, and what `tensor_of` raises.
    """
    shards = _shards(shapes, dtype.itemsize, shard_bytes)
    files = _file_names(len(shards))
    written = 0
    for file, names in zip(files, shards, strict=True):
        descriptor = os.open(folder / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0))
        with synced_and_closed(descriptor):
            _write_all(descriptor, _header(names, shapes, dtype, metadata or {}))
            for name in names:
                data = tensor_of(name).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
                _write_all(descriptor, data)
                written += data.nbytes
                yield written
    if len(files) > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": written}, "weight_map": weight_map}
        write_new_file(folder / INDEX_FILE, json.dumps(index, indent=2).encode())


def _shards(shapes: Mapping[str, tuple[int, ...]], number_bytes: int, shard_bytes: int) -> list[list[str]]:
    """Which tensors share a file; each has at least one."""
    shards: list[list[str]] = []
    room = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * number_bytes
        if not shards or size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _header(
    names: list[str], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, metadata: Mapping[str, str]
) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    at = 0
    for name in names:
        end = at + math.prod(shapes[name]) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": shapes[name], "data_offsets": [at, end]}
        at = end
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)  # so that numbers in the mapped file are aligned
    return len(data).to_bytes(8, "little") + data


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
