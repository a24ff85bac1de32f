"""Looks for NaN and Inf in stored tensors by their bits, a few megabytes at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from qlora_studio.errors import StudioError
from qlora_studio.models.model_folder import ModelFolder, open_folder
from qlora_studio.models.safetensors_header import StoredTensor
from qlora_studio.models.weights_index import read_weights_index

_BLOCK = 4 * 1024**2  # bytes
# An exponent of all ones means NaN or Inf: dtype -> unsigned type of its width, mask of the exponent.
_EXPONENTS = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}


def look_at_numbers(folder: Path, told: Callable[[int, int, str], None], seconds: float = 6.0) -> str:
    """Looks through as much of a model's weights as `seconds` allow; what wasn't looked at, in words, or "".

    Raises: StudioError naming the first tensor that holds NaN or Inf (S4).
    """
    end = time.monotonic() + seconds
    for done, total, file, bad in each_tensor(folder):
        if bad:
            raise StudioError(
                f"{folder / file}: tensor {bad[:200]!r} holds numbers that are not finite (NaN or Inf).",
                hint="The training that made it broke down, or the file is damaged; get the model again.",
            )
        told(done, total, "Looking at every number of the weights")
        if time.monotonic() > end and done < total:
            return (
                f"{done:,} of its {total:,} tensors were looked through for NaN and Inf; "
                "the others are when the model is loaded."
            )
    return ""


def each_tensor(folder: Path) -> Iterator[tuple[int, int, str, str]]:
    """A model's weights file by file, each looked through: how many are done, of how many, the file, and the
    tensor's name where it holds NaN or Inf, else "". Raises: StudioError.
    """
    source = open_folder(folder)
    tensors = read_weights_index(folder).tensors
    in_file_order = sorted(tensors.items(), key=lambda item: (item[1].file, item[1].offset))
    for done, (name, tensor) in enumerate(in_file_order, start=1):
        yield done, len(tensors), tensor.file, name if not_finite(source, {name: tensor}) else ""


def not_finite(source: ModelFolder, tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Names of the tensors that hold NaN or Inf, in the order of the file."""
    found = []
    for file in sorted({tensor.file for tensor in tensors.values()}):
        inside = [(name, tensor) for name, tensor in tensors.items() if tensor.file == file]
        with source.open(file) as opened:
            for name, tensor in sorted(inside, key=lambda item: item[1].offset):
                if tensor.dtype in _EXPONENTS and _has_bad_number(opened, tensor):
                    found.append(name)
    return found


def _has_bad_number(opened: BinaryIO, tensor: StoredTensor) -> bool:
    import numpy as np

    kind, exponent = _EXPONENTS[tensor.dtype]
    opened.seek(tensor.offset)
    left = tensor.bytes
    while left:
        block = opened.read(min(left, _BLOCK))
        if not block:
            return False  # cut since its header was checked: whoever loads it says so
        bits = np.frombuffer(block, dtype=kind)
        if bool(np.any((bits & exponent) == exponent)):
            return True
        left -= len(block)
    return False
