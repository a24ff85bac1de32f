"""The head of a safetensors file, checked before anything is allocated: names, types, shapes and places.

Format: 8 bytes of length, little-endian; a JSON object {name: {dtype, shape, data_offsets}}; the numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora_studio.errors import StudioError
from qlora_studio.models.model_folder import ModelFolder
from qlora_studio.models.strict_json import strict_object

LONGEST_HEADER = 32 * 1024**2  # bytes; 100,000 tensors take about 12 MB
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
_INCOMPLETE = "The download is incomplete or the file is damaged; fetch it again."


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's numbers lie. `offset`: of its first byte, from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(folder: ModelFolder, name: str) -> dict[str, StoredTensor]:
    """Every tensor of one file, by name. Raises: StudioError naming the file and the field (S3)."""
    where = str(folder.path / name)
    header, data_start, size = _read(folder, name, where)
    _metadata(header, where)
    tensors = {key: _tensor(key, value, where, Path(name).name, data_start) for key, value in header.items()}
    _check_places(tensors, data_start, size, where)
    return tensors


def read_metadata(folder: ModelFolder, name: str) -> dict[str, str]:
    """What a file says of itself beside its tensors; not to be trusted. Raises: StudioError (S3)."""
    where = str(folder.path / name)
    return _metadata(_read(folder, name, where)[0], where)


def _read(folder: ModelFolder, name: str, where: str) -> tuple[dict[str, Any], int, int]:
    """The header, where the numbers begin, and the file's size."""
    with folder.open(name) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = _header_length(start, size, where)
        data = file.read(length)
    if len(data) < length:
        raise StudioError(f"{where} ends inside its header.", hint=_INCOMPLETE)
    if not data.startswith(b"{"):
        raise StudioError(
            f"The header of {where} holds no JSON object: it doesn't begin with {{.", hint=_INCOMPLETE
        )
    return strict_object(data, f"The header of {where}"), 8 + length, size


def _header_length(start: bytes, size: int, where: str) -> int:
    if start == b"version ":  # of a Git LFS pointer
        raise StudioError(
            f"{where} is only a pointer to the weights (Git LFS).", hint="Run `git lfs pull` in its folder."
        )
    if len(start) < 8:
        raise StudioError(f"{where} is cut short: it has {size} bytes.", hint=_INCOMPLETE)
    length = int.from_bytes(start, "little")
    if not 2 <= length <= LONGEST_HEADER:
        raise StudioError(
            f"{where}: a header of {length:,} bytes is no safetensors header.", hint=_INCOMPLETE
        )
    if 8 + length > size:
        raise StudioError(
            f"{where} is cut short: its header alone takes {8 + length:,} bytes, the file has {size:,}.",
            hint=_INCOMPLETE,
        )
    return length


def _metadata(header: dict[str, Any], where: str) -> dict[str, str]:
    """Taken out of the header: all else there are tensors."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise StudioError(f"{where}: __metadata__ of the header must map text to text.")
    return metadata


def _tensor(name: str, entry: Any, where: str, file: str, data_start: int) -> StoredTensor:
    said = f"{where}: tensor {name[:200]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise StudioError(f"{said} must have dtype, shape and data_offsets, nothing else.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise StudioError(f"{said}: dtype {str(dtype)[:50]!r} is not known.")
    if not _is_list_of_sizes(shape) or len(shape) > 8:
        raise StudioError(f"{said}: shape {str(shape)[:100]} is not a list of sizes.")
    if not _is_list_of_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise StudioError(f"{said}: data_offsets {str(offsets)[:100]} are not a begin and an end.")
    begin, end = offsets
    needed = math.prod(shape) * _BITS[dtype] // 8
    if end - begin != needed:
        raise StudioError(
            f"{said}: shape and dtype need {needed:,} bytes, data_offsets give {end - begin:,}."
        )
    return StoredTensor(dtype, tuple(shape), file, data_start + begin, end - begin)


def _is_list_of_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_places(tensors: dict[str, StoredTensor], data_start: int, size: int, where: str) -> None:
    expected = data_start
    for name, tensor in _in_file_order(tensors.items()):
        if tensor.offset != expected:
            what = "overlaps the tensor before it" if tensor.offset < expected else "leaves a gap before it"
            raise StudioError(f"{where}: tensor {name[:200]!r}: data_offsets: it {what}.")
        expected += tensor.bytes
    if expected > size:
        raise StudioError(
            f"{where} is cut short: its header describes {expected:,} bytes, the file has {size:,}.",
            hint=_INCOMPLETE,
        )
    if expected < size:
        raise StudioError(f"{where} has {size - expected:,} bytes beyond the end its header describes.")


def _in_file_order(tensors: Iterable[tuple[str, StoredTensor]]) -> list[tuple[str, StoredTensor]]:
    return sorted(tensors, key=lambda item: (item[1].offset, item[1].bytes))
