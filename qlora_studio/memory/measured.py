"""What was measured on this machine, kept for the next run: speeds, and memory beside its promise."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.places import settings_folder

_SCHEMA_VERSION = 1
_MOST_ENTRIES = 500


class MeasuredSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Of the newest run with this device and model."""

    device_name: str
    shape: str
    quantization: str
    tokens_per_second: float


class MeasuredFactor(msgspec.Struct, frozen=True, kw_only=True):
    """Of the newest run of its kind: what its estimated bytes took, as a multiple of what was computed."""

    device_name: str
    shape: str
    quantization: str
    compiled: bool
    factor: float


class _File(msgspec.Struct, kw_only=True):
    schema_version: int = _SCHEMA_VERSION
    speeds: list[MeasuredSpeed] = []
    factors: list[MeasuredFactor] = []


def measured_speed(device_name: str, shape: ModelShape, quantization: str) -> float | None:
    """Tokens a second in training, without padding; None before the first run of this kind here."""
    for entry in _read(_path()).speeds:
        if _same(entry, device_name, shape, quantization):
            return entry.tokens_per_second
    return None


def remember_speed(device_name: str, shape: ModelShape, quantization: str, tokens_per_second: float) -> None:
    """Replaces what an earlier run measured. A disk that can't be written to forgets, no more."""
    if not 0 < tokens_per_second < 1e9:
        return
    path = _path()
    file = _read(path)
    if file.schema_version > _SCHEMA_VERSION:
        return  # a newer version's file stays as it is
    others = [entry for entry in file.speeds if not _same(entry, device_name, shape, quantization)]
    newest = MeasuredSpeed(
        device_name=device_name,
        shape=shape_key(shape),
        quantization=quantization,
        tokens_per_second=tokens_per_second,
    )
    file.speeds = [newest, *others][:_MOST_ENTRIES]
    with contextlib.suppress(OSError):
        _write(path, file)


def measured_factor(
    device_name: str, shape: ModelShape, quantization: str, *, compiled: bool
) -> float | None:
    """None before the first run of this kind here."""
    for entry in _read(_path()).factors:
        if entry.compiled == compiled and _same(entry, device_name, shape, quantization):
            return entry.factor
    return None


def remember_factor(
    device_name: str, shape: ModelShape, quantization: str, *, compiled: bool, factor: float
) -> None:
    """Replaces what an earlier run measured. A disk that can't be written to forgets, no more."""
    path = _path()
    file = _read(path)
    if file.schema_version > _SCHEMA_VERSION:
        return
    newest = MeasuredFactor(
        device_name=device_name,
        shape=shape_key(shape),
        quantization=quantization,
        compiled=compiled,
        factor=factor,
    )
    others = [
        entry
        for entry in file.factors
        if entry.compiled != compiled or not _same(entry, device_name, shape, quantization)
    ]
    file.factors = [newest, *others][:_MOST_ENTRIES]
    with contextlib.suppress(OSError):
        _write(path, file)


def shape_key(shape: ModelShape) -> str:
    """Models of one shape run at one speed, whatever their name."""
    return (
        f"{shape.family}-{shape.hidden_size}x{shape.layers}-{shape.intermediate_size}"
        f"-{shape.heads}:{shape.kv_heads}-{shape.vocab_size}"
    )


def _same(
    entry: MeasuredSpeed | MeasuredFactor, device_name: str, shape: ModelShape, quantization: str
) -> bool:
    said = (entry.device_name, entry.shape, entry.quantization)
    return said == (device_name, shape_key(shape), quantization)


def _path() -> Path:
    return settings_folder() / "measured.json"


def _read(path: Path) -> _File:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, msgspec.MsgspecError, RecursionError):  # missing, or torn: it is measured again
        return _File()


def _write(path: Path, file: _File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f"{path.name}.{os.getpid()}.new")
    staged.write_bytes(msgspec.json.format(msgspec.json.encode(file)))
    staged.replace(path)
