"""What runs on this machine measured beside their promise, and how that corrects the next one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from qlora_studio.config.architecture import row_limit
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory.compiling import not_compiled_reason
from qlora_studio.memory.devices import likely_dtype
from qlora_studio.memory.measured import measured_dtype, measured_factors, remember_factor
from qlora_studio.memory.parts import may_be_graphed, never_estimated, parts
from qlora_studio.memory.setting import Setting

# A promise that is too low costs a run, one that is too high only some room: it is lowered less.
_LOWEST, _HIGHEST = 0.9, 1.5
_BELIEVED = (0.2, 5.0)  # what lies outside was no measurement of this run alone
STEPS_MEASURED = 3  # after so many, memory is what it will be
EXACT = ("weights", "adapter", "optimizer")  # parts counted from tensors, in the promise and in the meter


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """What the estimated bytes are multiplied by: activations, logits, workspace. 1: nothing was measured.

    auto_dtype: what the compute dtype "auto" was on this device in the newest run, or will be; "": not known
    """

    graphed: float = 1.0
    compiled: float = 1.0
    eager: float = 1.0
    auto_dtype: str = ""


NO_CORRECTION = Correction()


def correction(device_name: str, shape: ModelShape, quantization: str) -> Correction:
    """By the newest runs on this device with a model of this shape, within bounds."""
    measured = measured_factors(device_name, shape, quantization)
    return Correction(
        graphed=_bounded(measured.get((True, True))),
        compiled=_bounded(measured.get((True, False))),
        eager=_bounded(measured.get((False, False))),
        auto_dtype=measured_dtype(device_name) or likely_dtype(device_name),
    )


def correction_words(factor: float) -> str:
    """Empty where nothing was corrected."""
    percent = round((factor - 1) * 100)
    if not percent:
        return ""
    more = "more" if percent > 0 else "less"
    return f"Activations, logits and workspace as measured here: {abs(percent)} % {more} than computed."


def remember_peak(
    device_name: str,
    shape: ModelShape,
    config: RunConfig,
    *,
    device: str,
    longest_row: int,
    all_tokens: int,
    measured: dict[str, int],
) -> None:
    """measured: bytes by part at the peak of a step, as the meter tells them; what is absurd isn't kept, nor
    what data told that fill no batch.

    config: with the number of layers recomputed and the compute dtype as they were
    """
    full = tokens_at_once(shape, config, longest_row, device=device)
    if tokens_at_once(shape, config, longest_row, all_tokens, device=device) < full:
        return
    compiled = is_compiled(shape, config, device)
    computed = parts(
        Setting(shape, config, device, compiled, full, None),
        layers_of(config, shape),
    )
    estimated = computed.activations + computed.logits + computed.other - never_estimated(device)
    found = estimated_bytes(measured)
    if device == "cpu":  # there the meter sees the process too; on a card it sees no context
        found -= never_estimated(device)
    factor = found / estimated if estimated > 0 else math.nan
    if _is_believed(factor):
        remember_factor(
            device_name,
            shape,
            config.model.quantization,
            compiled=compiled,
            graphed=is_graphed(shape, config, device),
            factor=factor,
        )


def estimated_bytes(by_part: Mapping[str, int]) -> int:
    """Of a promise, or of what was measured: all that isn't counted from tensors."""
    return sum(count for part, count in by_part.items() if part not in EXACT)


def as_promised(peak_bytes: int, device: str) -> int:
    """What the meter told, with what a promise counts beside it: a card's context, which torch can't see."""
    return peak_bytes + (never_estimated(device) if device == "cuda" and peak_bytes else 0)


def is_compiled(shape: ModelShape, config: RunConfig, device: str) -> bool:
    """Whether the engine's layers run as compiled graphs."""
    return device == "cuda" and not_compiled_reason(shape.family, config) is None


def is_graphed(shape: ModelShape, config: RunConfig, device: str) -> bool:
    """Whether passes through these layers are played as CUDA graphs."""
    return is_compiled(shape, config, device) and may_be_graphed(shape, config)


def tokens_at_once(
    shape: ModelShape,
    config: RunConfig,
    longest_row: int | None,
    all_tokens: int | None = None,
    *,
    device: str,
) -> int:
    """Rows times their length; without packing no row is computed longer than the longest.

    all_tokens: of all rows there are, where that is known: little data fills no batch. A card computes the
        padding of packed rows too; nothing else does.
    """
    row = row_limit(config.data, shape)
    if longest_row is not None and not config.data.packing:
        row = max(min(row, longest_row), 1)  # 0: no row has a token yet
    full = config.training.batch_size * row
    if all_tokens is None or computes_padding(config, device):
        return full
    return max(min(full, all_tokens), 1)


def computes_padding(config: RunConfig, device: str) -> bool:
    """Whether every batch has its full size, whatever fills it: then memory never changes."""
    return device == "cuda" and config.data.packing


def layers_of(config: RunConfig, shape: ModelShape) -> int:
    """Recomputed, as set; all of them for auto, which isn't resolved."""
    asked = config.training.recompute
    if isinstance(asked, int):
        return min(asked, shape.all_layers)
    return 0 if asked == "none" else shape.all_layers


def _bounded(factor: float | None) -> float:
    if factor is None or not _is_believed(factor):
        return 1.0
    return min(max(factor, _LOWEST), _HIGHEST)


def _is_believed(factor: float) -> bool:
    return _BELIEVED[0] <= factor <= _BELIEVED[1]
