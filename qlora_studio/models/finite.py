"""Looks for NaN and Inf in stored tensors by their bits, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from qlora_studio.models.model_folder import ModelFolder
from qlora_studio.models.safetensors_header import StoredTensor

_BLOCK = 4 * 1024**2  # bytes
# An exponent of all ones means NaN or Inf: dtype -> unsigned type of its width, mask of the exponent.
_EXPONENTS = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}


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
