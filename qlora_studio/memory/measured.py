"""What was measured on this machine, kept for the next run: speeds, and memory beside its promise."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.places import settings_folder

_SCHEMA_VERSION = 1
_MOST_ENTRIES = 500
# Of what a factor is a multiple: counted up where `memory.parts` comes to other bytes for a run. 2: what the
# graphs of compiled layers hold, since products with the same input are one. 3: CUDA graphs, and gradients
# that stay. 4: dropout keeps what norms made.
_ESTIMATE = 4


class MeasuredSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Of the newest run with this device and model. fp8: whether its products were made in that. graphed:
    whether its passes were played as CUDA graphs, eight times as fast with a small model
    """

    device_name: str
    shape: str
    quantization: str
    tokens_per_second: float
    fp8: bool = False
    graphed: bool = False


class MeasuredFactor(msgspec.Struct, frozen=True, kw_only=True):
    """Of the newest run of its kind: what its estimated bytes took, as a multiple of what was computed."""

    device_name: str
    shape: str
    quantization: str
    compiled: bool
    factor: float
    estimate: int = 1
    graphed: bool = False


class MeasuredDtype(msgspec.Struct, frozen=True, kw_only=True):
    """What the compute dtype "auto" was found to be on a device, in the newest run."""

    device_name: str
    compute_dtype: str


_Kept = TypeVar("_Kept", bound=MeasuredSpeed | MeasuredFactor | MeasuredDtype)


class _File(msgspec.Struct, kw_only=True):
    schema_version: int = _SCHEMA_VERSION
    speeds: list[MeasuredSpeed] = []
    factors: list[MeasuredFactor] = []
    dtypes: list[MeasuredDtype] = []


def measured_speed(
    device_name: str, shape: ModelShape, quantization: str, *, fp8: bool = False, graphed: bool = False
) -> float | None:
    """Tokens a second in training, without padding; None before the first run of this kind here.

    How many layers are recomputed makes no other kind, nor where their inputs lie: with those in RAM the same
    run took as long within 1 % (docs/BENCHMARKS.md).
    """
    for entry in _read(_path()).speeds:
        if (entry.fp8, entry.graphed) == (fp8, graphed) and _same(entry, device_name, shape, quantization):
            return entry.tokens_per_second
    return None


def measured_factors(
    device_name: str, shape: ModelShape, quantization: str
) -> dict[tuple[bool, bool], float]:
    """(compiled, graphed) -> factor; without what has had no run of this kind here, or none since the promise
    comes to other bytes.
    """
    factors = _read(_path()).factors
    return {
        (entry.compiled, entry.graphed): entry.factor
        for entry in factors
        if entry.estimate == _ESTIMATE and _same(entry, device_name, shape, quantization)
    }


def measured_dtype(device_name: str) -> str:
    """Empty before the first run on this device."""
    found = (entry.compute_dtype for entry in _read(_path()).dtypes if entry.device_name == device_name)
    return next(found, "")


def remember_dtype(device_name: str, compute_dtype: str) -> None:
    """As `remember_speed`."""
    _remember(MeasuredDtype(device_name=device_name, compute_dtype=compute_dtype))


def remember_speed(
    device_name: str,
    shape: ModelShape,
    quantization: str,
    tokens_per_second: float,
    *,
    fp8: bool = False,
    graphed: bool = False,
) -> None:
    """Replaces what an earlier run measured. A disk that can't be written to forgets, no more."""
    if 0 < tokens_per_second < 1e9:
        _remember(
            MeasuredSpeed(
                device_name=device_name,
                shape=shape_key(shape),
                quantization=quantization,
                tokens_per_second=tokens_per_second,
                fp8=fp8,
                graphed=graphed,
            )
        )


def remember_factor(
    device_name: str,
    shape: ModelShape,
    quantization: str,
    *,
    compiled: bool,
    factor: float,
    graphed: bool = False,
) -> None:
    """As `remember_speed`."""
    _remember(
        MeasuredFactor(
            device_name=device_name,
            shape=shape_key(shape),
            quantization=quantization,
            compiled=compiled,
            factor=factor,
            estimate=_ESTIMATE,
            graphed=graphed,
        )
    )


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


def _remember(newest: MeasuredSpeed | MeasuredFactor | MeasuredDtype) -> None:
    path = _path()
    file = _read(path)
    if file.schema_version > _SCHEMA_VERSION:
        return  # a newer version's file stays as it is
    if isinstance(newest, MeasuredSpeed):
        file.speeds = _with_newest(newest, file.speeds)
    elif isinstance(newest, MeasuredDtype):
        file.dtypes = _with_newest(newest, file.dtypes)
    else:
        file.factors = _with_newest(newest, file.factors)
    with contextlib.suppress(OSError):
        _write(path, file)


def _with_newest(newest: _Kept, entries: list[_Kept]) -> list[_Kept]:
    """In place of the one of its kind, first, so that the oldest are forgotten."""
    others = [entry for entry in entries if _kind(entry) != _kind(newest)]
    return [newest, *others][:_MOST_ENTRIES]


def _kind(entry: MeasuredSpeed | MeasuredFactor | MeasuredDtype) -> tuple[str, str, str, bool, bool]:
    if isinstance(entry, MeasuredDtype):
        return entry.device_name, "", "", False, False
    of_two = entry.compiled if isinstance(entry, MeasuredFactor) else entry.fp8
    return entry.device_name, entry.shape, entry.quantization, of_two, entry.graphed


def _path() -> Path:
    return settings_folder() / "measured.json"


def _read(path: Path) -> _File:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except (
        OSError,
        msgspec.MsgspecError,
        UnicodeDecodeError,
        RecursionError,
    ):  # missing, or torn: it is measured again
        return _File()


def _write(path: Path, file: _File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f"{path.name}.{os.getpid()}.new")
    staged.write_bytes(msgspec.json.format(msgspec.json.encode(file)))
    staged.replace(path)
