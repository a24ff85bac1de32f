"""What storing a model's linear layers in few bits does to them, and to the loss on a text."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from qlora_kernels.codebooks import FP4_VALUES, NF4_VALUES, even_values
from qlora_kernels.rounding import nested_absmax, round_to_values, stored_bits
from torch import Tensor

from qlora_studio.config.run_config import SHAPE_PREFIX
from qlora_studio.data.packing import collate, evaluation_batches
from qlora_studio.data.prepared import PreparedRows, open_prepared
from qlora_studio.engine.compute_dtype import name_of, resolve_compute_dtype
from qlora_studio.engine.device import Device
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.learned_loss import learned_losses
from qlora_studio.engine.loading import BaseModel, load_base, read_stored
from qlora_studio.engine.normality import FEWEST, shapiro_wilk
from qlora_studio.engine.packed_batch import on_device
from qlora_studio.errors import StudioError
from qlora_studio.models.check import model_folder
from qlora_studio.models.model_folder import open_folder
from qlora_studio.models.quantization_report import (
    FEWEST_TOKENS,
    LayerErrors,
    Levels,
    Perplexity,
    QuantizationReport,
    QuantSetting,
    require_tokens,
)
from qlora_studio.models.shapes import folder_plan
from qlora_studio.models.stored_weights import stored_weights
from qlora_studio.protocol.commands import MeasureQuantization
from qlora_studio.protocol.events import LoadingProgress, QuantizationMeasured
from qlora_studio.runs.durable import write_file_durably
from qlora_studio.runs.space import saving

CODE_BITS = {"nf4": 4, "fp4": 4, "int4": 4, "int8": 8}
MEASURED_ON_TEXT = (
    ("none", False),
    ("nf4", False),
    ("nf4", True),
    ("fp4", False),
    ("int4", False),
    ("int8", False),
)
_TOKENS_ON_CARD, _TOKENS_ON_CPU = 20_000, 4_000  # read where nobody says how many
_TOKENS_TOGETHER = 64  # the unit of the intervals: neighbouring tokens are easy or hard together
_BINS = 128
_ROWS_TESTED = 1_024
_LOGITS = 2**25  # of the loss, that exist at one time
_TELL_EVERY_S = 0.1

Stopped = Callable[[], bool]


def measure_quantization(
    command: MeasureQuantization, device: Device, stopped: Stopped
) -> Iterator[LoadingProgress | QuantizationMeasured]:
    """Raises: StudioError."""
    start = time.monotonic()
    if command.model.startswith(SHAPE_PREFIX):
        raise StudioError(f"{command.model} has random weights: there is nothing to measure.")
    if command.tokens:
        require_tokens(command.tokens)
    linears = _Linears.of(model_folder(command.model), device, stopped)
    settings = _settings(command)
    compute_dtype = resolve_compute_dtype("auto", device) if command.prepared else torch.float32
    rows = _readable(linears, command, compute_dtype) if command.prepared else None
    found = yield from _each_layer(linears, settings, command.block_size)
    perplexities: list[Perplexity] = []
    tokens = 0
    if rows is not None:
        losses = yield from _losses(linears, rows, command, compute_dtype)
        perplexities, tokens = _perplexities(losses), len(losses[MEASURED_ON_TEXT[0]])
    report = QuantizationReport(
        model=linears.folder.name,
        weights=linears.weights,
        block_size=command.block_size,
        settings=found.settings(settings, linears),
        layers=tuple(found.layers),
        bins=tuple(int(count) for count in found.bins),
        levels=tuple(
            Levels(
                quant_type=kind,
                values=_values(kind),
                counts=tuple(int(count) for count in counts),
            )
            for kind, counts in found.levels.items()
        ),
        text=command.text,
        tokens=tokens,
        compute_dtype=name_of(compute_dtype) if tokens else "",
        perplexities=tuple(perplexities),
        device=device.name,
        seconds=time.monotonic() - start,
    )
    path = Path(command.out)
    with saving("the report", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file_durably(path, msgspec.json.encode(report))
    yield QuantizationMeasured(id=command.id, report=command.out)


@dataclass(frozen=True)
class _Setting:
    quant_type: str
    block_size: int
    double_quant: bool


def _settings(command: MeasureQuantization) -> list[_Setting]:
    sizes = sorted({*command.block_sizes, command.block_size})
    return [
        _Setting(kind, size, double)
        for kind in command.quant_types
        for size in sizes
        for double in (False, True)
    ]


@dataclass(frozen=True)
class _Linears:
    """The weights that training would quantize, read from the folder one at a time."""

    folder: Path
    device: Device
    stopped: Stopped
    shapes: dict[str, tuple[int, ...]]  # name in the model -> as stored
    transposed: frozenset[str]

    @classmethod
    def of(cls, folder: Path, device: Device, stopped: Stopped) -> _Linears:
        """Raises: StudioError where the folder isn't sound."""
        plan = folder_plan(folder)
        stored = stored_weights(folder, plan)
        unquantized = plan.unquantized_names()
        names = {f"{name}.weight" for name in plan.linear_names() if name not in unquantized}
        turned = tuple(f".{linear.name}.weight" for _, linear in plan.linears() if linear.transposed)
        shapes = {name: tensor.shape for name, tensor in stored.items() if name in names}
        return cls(
            folder, device, stopped, shapes, frozenset(name for name in shapes if name.endswith(turned))
        )

    @property
    def weights(self) -> int:
        """In all of them."""
        return sum(_size(shape) for shape in self.shapes.values())

    def each(self) -> Iterator[tuple[str, Tensor]]:
        """Name and float32 [out_features, in_features] on the device, as the file has it.

        Raises: StudioError where it is no longer wanted.
        """
        stored = stored_weights(self.folder, folder_plan(self.folder))
        source = open_folder(self.folder)
        for file_name in sorted({stored[name].file for name in self.shapes}):
            with source.open(file_name) as file:
                for name in self.shapes:
                    if stored[name].file != file_name:
                        continue
                    if self.stopped():
                        raise StudioError("The measurement was stopped.")
                    weight = read_stored(file, stored[name], self.folder).to(self.device.torch_device)
                    yield name, (weight.T.contiguous() if name in self.transposed else weight).float()


@dataclass(eq=False)
class _Found:
    """Sums over the layers. errors: squared differences by setting; levels: counts by type."""

    errors: NDArray[np.float64]
    squares: float = 0.0
    layers: list[LayerErrors] = field(default_factory=list)
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    levels: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def settings(self, settings: list[_Setting], linears: _Linears) -> tuple[QuantSetting, ...]:
        """With what they need, and the error of all layers together."""
        sizes = [_size(shape) for shape in linears.shapes.values()]
        return tuple(
            QuantSetting(
                quant_type=item.quant_type,
                block_size=item.block_size,
                double_quant=item.double_quant,
                bits_per_weight=sum(
                    stored_bits(size, CODE_BITS[item.quant_type], item.block_size, item.double_quant)
                    for size in sizes
                )
                / linears.weights,
                relative_error=_ratio(float(error), self.squares),
            )
            for item, error in zip(settings, self.errors, strict=True)
        )


def _each_layer(
    linears: _Linears, settings: list[_Setting], block_size: int
) -> Generator[LoadingProgress, None, _Found]:
    found = _Found(np.zeros(len(settings)))
    told = -_TELL_EVERY_S
    for done, (name, weight) in enumerate(linears.each()):
        if not bool(torch.isfinite(weight).all()):
            raise StudioError(
                f"{linears.folder}: {name} holds numbers that are not finite (NaN or Inf).",
                hint="The weights are damaged; get the model again.",
            )
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            yield LoadingProgress(
                done=done, total=len(linears.shapes), words=f"Rounding the layers of {linears.folder.name}"
            )
        squares = float(weight.square().sum(dtype=torch.float64))
        errors = _errors(weight, settings, block_size, found)
        found.errors += errors
        found.squares += squares
        found.layers.append(
            LayerErrors(
                name=name.removesuffix(".weight"),
                weights=weight.numel(),
                largest=float(weight.abs().max() / weight.std().clamp(min=1e-30)),
                errors=tuple(_ratio(float(error), squares) for error in errors),
                neurons=weight.shape[0] if weight.shape[1] >= FEWEST else 0,
                non_normal=_non_normal(weight),
            )
        )
    return found


def _errors(weight: Tensor, settings: list[_Setting], block_size: int, found: _Found) -> NDArray[np.float64]:
    """Squared differences, one a setting. The single and the doubly quantized share their codes."""
    errors = {}
    for kind, size in dict.fromkeys((item.quant_type, item.block_size) for item in settings):
        rounded = round_to_values(weight, _values(kind), size)
        units = rounded.units()
        for double in (False, True):
            absmax = nested_absmax(rounded.absmax) if double else rounded.absmax
            difference = (rounded.scaled * rounded.absmax[:, None]).sub_(units * absmax[:, None])
            errors[_Setting(kind, size, double)] = float(difference.square_().sum(dtype=torch.float64))
        if size == block_size:
            _count(rounded.ranks, rounded.scaled, weight.numel(), kind, found)
    return np.array([errors[item] for item in settings])


def _non_normal(weight: Tensor) -> int:
    """Rows that Shapiro and Wilk's test refuses at 5 %; some at once, as sorting takes room."""
    if weight.shape[1] < FEWEST:
        return 0
    count = 0
    for first in range(0, weight.shape[0], _ROWS_TESTED):
        _, p = shapiro_wilk(weight[first : first + _ROWS_TESTED])
        count += int((p < 0.05).sum())
    return count


def _count(ranks: Tensor, scaled: Tensor, weights: int, kind: str, found: _Found) -> None:
    levels = len(_values(kind))
    counted = torch.bincount(ranks[:weights], minlength=levels).cpu().numpy()
    found.levels[kind] = counted + found.levels.get(kind, np.zeros(levels, np.int64))
    if kind == next(iter(found.levels)):  # the same numbers whatever they are rounded to
        found.bins += (
            torch.histc(scaled.view(-1)[:weights], bins=_BINS, min=-1.0, max=1.0)
            .cpu()
            .numpy()
            .astype(np.int64)
        )


def _values(kind: str) -> tuple[float, ...]:
    """Ascending; FP4 has two zeros."""
    said = {"nf4": NF4_VALUES, "fp4": FP4_VALUES, "int4": even_values(4), "int8": even_values(8)}[kind]
    return tuple(sorted(set(said)))


# The loss on a text ---------------------------------------------------------------------------------

_Losses = dict[tuple[str, bool], NDArray[np.float32]]  # nats of each token, in the same order


def _readable(linears: _Linears, command: MeasureQuantization, dtype: torch.dtype) -> PreparedRows:
    """The text, before anything is measured.

    Raises: StudioError where it is too short, or the model too large.
    """
    rows = open_prepared(Path(command.prepared))
    tokens = int(rows.info.validation_learned_tokens)
    if tokens < FEWEST_TOKENS:
        raise StudioError(
            f"{command.text or 'The text'} is too short for a perplexity: {tokens:,} "
            f"{'token' if tokens == 1 else 'tokens'}, at least {FEWEST_TOKENS:,} are needed.",
            hint="Choose a longer text; some pages of what the model is for are enough.",
        )
    needed, free = _bytes_needed(linears.folder, dtype), linears.device.free_bytes()
    if needed > free:
        raise StudioError(
            f"The perplexity needs the whole model in {torch.finfo(dtype).bits} bit: "
            f"{needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free.",
            hint="Measure without a text: the error of each layer needs one layer at a time.",
        )
    return rows


def _losses(
    linears: _Linears, rows: PreparedRows, command: MeasureQuantization, dtype: torch.dtype
) -> Generator[LoadingProgress, None, _Losses]:
    """One model in memory, whose linear layers are written anew from the files for each setting."""
    device = linears.device
    base = yield from load_base(str(linears.folder), Storage("none", False, dtype), device)
    most = command.tokens or (_TOKENS_ON_CARD if device.is_cuda else _TOKENS_ON_CPU)
    found: _Losses = {}
    measured = [item for item in MEASURED_ON_TEXT if item[0] in ("none", *command.quant_types)]
    for number, (kind, double) in enumerate(measured, start=1):
        if kind != "none":
            for name, weight in linears.each():
                # As training does it: first to the dtype that is computed in, then to few bits.
                stored = round_to_values(weight.to(dtype), _values(kind), command.block_size).weight(double)
                target = base.causal_lm.get_parameter(name)
                target.data.copy_(stored.T if name in linears.transposed else stored)
        words = f"Reading the text, setting {number} of {len(measured)}"
        found[kind, double] = yield from _nats(base, rows, most, words, linears.stopped)
    return found


def _nats(
    base: BaseModel, rows: PreparedRows, most: int, words: str, stopped: Stopped
) -> Generator[LoadingProgress, None, NDArray[np.float32]]:
    """float32 [tokens], of the first `most` learned tokens."""
    model, device = base.causal_lm, base.device
    model.eval()
    total = min(most, rows.info.validation_learned_tokens)
    parts: list[NDArray[np.float32]] = []
    done, told = 0, -_TELL_EVERY_S
    for micro_batch in evaluation_batches(
        rows.validation.lengths,
        seq_len=rows.info.seq_len,
        packing=True,
        batch_size=4 if device.is_cuda else 1,
    ):
        if stopped():
            raise StudioError("The measurement was stopped.")
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            yield LoadingProgress(done=min(done, total), total=total, words=words)
        batch = collate(micro_batch, rows.validation, pad_id=rows.info.pad_id)
        packed = on_device(batch, device.torch_device, keep_padding=False)
        with torch.no_grad():
            parts.append(learned_losses(model, packed).cpu().numpy())
        done += batch.learned_tokens
        if done >= most:
            break
    return np.concatenate(parts)[:most]


def _perplexities(losses: _Losses) -> list[Perplexity]:
    base = losses["none", False]
    return [
        Perplexity(
            quant_type=kind,
            double_quant=double,
            loss=float(nats.mean(dtype=np.float64)),
            error=half_interval(nats),
            more=float((nats - base).mean(dtype=np.float64)),
            more_error=half_interval(nats - base),
        )
        for (kind, double), nats in losses.items()
    ]


def half_interval(nats: NDArray[np.float32]) -> float:
    """Half of the 95 % interval of the mean, over groups of neighbouring tokens.

    nats: float32 [tokens], at least two groups of 64; normal approximation
    """
    groups = len(nats) // _TOKENS_TOGETHER
    means = nats[: groups * _TOKENS_TOGETHER].reshape(groups, -1).mean(1, dtype=np.float64)
    return float(1.96 * means.std(ddof=1) / np.sqrt(groups))


def _bytes_needed(folder: Path, dtype: torch.dtype) -> int:
    """Weights, the largest layer in float32 thrice while it is rounded, and some logits."""
    plan = folder_plan(folder)
    largest = max(_size(linear.stored_shape) for _, linear in plan.linears())
    return plan.shape().parameters * dtype.itemsize + 12 * largest + 8 * _LOGITS


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _ratio(error: float, squares: float) -> float:
    return float(np.sqrt(error / squares)) if squares > 0 else 0.0
