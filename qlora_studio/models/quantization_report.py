"""What storing a model in few bits does to it: measured by the engine, kept as a file, written as tables."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from qlora_studio.config.places import cache_folder
from qlora_studio.errors import StudioError
from qlora_studio.svg_chart import Series, histogram, line_chart

QUANT_TYPES = ("nf4", "fp4", "int4", "int8")
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NAMES = {"nf4": "NF4", "fp4": "FP4", "int4": "INT4", "int8": "int8", "none": "16 bit"}
FEWEST_TOKENS = 512  # of a text: below, the interval would be as wide as any gap
OUTLIER_DEVIATIONS = 3.5  # Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993): modified z-score
_PAPER_SAVING = 0.373  # bits a weight that double quantization saves at blocks of 64 and 256


def require_tokens(tokens: int) -> None:
    """tokens: of a text, at most. Raises: StudioError where they are too few for a perplexity."""
    if tokens < FEWEST_TOKENS:
        raise StudioError(f"A perplexity needs at least {FEWEST_TOKENS:,} tokens, not {tokens:,}.")


class QuantSetting(msgspec.Struct, frozen=True, kw_only=True):
    """One way of storing the linear layers, and what it does to all of them together.

    relative_error: Frobenius norm of the difference by that of the weights
    """

    quant_type: str  # nf4 | fp4 | int4 | int8
    block_size: int
    double_quant: bool
    bits_per_weight: float
    relative_error: float

    @property
    def name(self) -> str:
        """For a person, without the block size."""
        return NAMES[self.quant_type] + (" + DQ" if self.double_quant else "")

    @property
    def snr_db(self) -> float | None:
        """Signal to noise; None where nothing was changed."""
        return snr_db(self.relative_error)


class LayerErrors(msgspec.Struct, frozen=True, kw_only=True):
    """A linear layer. errors: relative Frobenius, in the order of the report's settings.

    largest:    its largest weight, in standard deviations of its weights
    neurons:    rows of the weight that were tested for a normal distribution
    non_normal: of these, not normal by Shapiro and Wilk's test at 5 %, which refuses one normal row in 20
    """

    name: str
    weights: int
    largest: float
    errors: tuple[float, ...]
    neurons: int = 0
    non_normal: int = 0


class Levels(msgspec.Struct, frozen=True, kw_only=True):
    """How often each value of a code is used at the report's block size, all layers together."""

    quant_type: str
    values: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def entropy_bits(self) -> float:
        """What the codes say, in bits each: all their width where the values are used evenly."""
        total = sum(self.counts)
        shares = [count / total for count in self.counts if count] if total else []
        return -sum(share * math.log2(share) for share in shares)


class Perplexity(msgspec.Struct, frozen=True, kw_only=True):
    """Of the text, with the linear layers stored so. quant_type: none is the model as it is.

    loss:       nats a token
    error:      half of the 95 % interval of `loss`: how much another text of this kind would change it
    more:       loss less that of the model as it is
    more_error: half of the 95 % interval of that, over the same tokens
    """

    quant_type: str
    double_quant: bool
    loss: float
    error: float
    more: float = 0.0
    more_error: float = 0.0

    @property
    def name(self) -> str:
        """For a person."""
        return NAMES[self.quant_type] + (" + DQ" if self.double_quant else "")

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A claim of the paper, held against this model. holds: None where the noise is larger than the gap."""

    claim: str
    holds: bool | None
    found: str

    @property
    def verdict(self) -> str:
        """In a word or more."""
        return {True: "holds", False: "does not hold here", None: "within the noise"}[self.holds]


class QuantizationReport(msgspec.Struct, frozen=True, kw_only=True):
    """block_size: of levels and perplexities. bins: weights between -1 and 1 times their block's largest."""

    model: str
    weights: int  # in linear layers, which alone are quantized
    block_size: int
    settings: tuple[QuantSetting, ...]
    layers: tuple[LayerErrors, ...]
    bins: tuple[int, ...]
    levels: tuple[Levels, ...]
    text: str = ""
    tokens: int = 0
    compute_dtype: str = ""
    perplexities: tuple[Perplexity, ...] = ()
    device: str = ""
    seconds: float = 0.0

    @property
    def non_normal_share(self) -> float | None:
        """Of all neurons that were tested; None where none was."""
        tested = sum(layer.neurons for layer in self.layers)
        return sum(layer.non_normal for layer in self.layers) / tested if tested else None


def normal_words(share: float) -> str:
    """For a person. share: of neurons whose weights aren't normally distributed."""
    return (
        f"The weights of {share:.1%} of the neurons aren't normally distributed (Shapiro-Wilk at 5 %, "
        "which refuses 5 % of normal ones, too)."
    )


def snr_db(relative_error: float) -> float | None:
    """-20 log10; None where nothing was changed."""
    return -20 * math.log10(relative_error) if relative_error > 0 else None


def report_file(folder: Path) -> Path:
    """Where the report of the model in `folder`, with the weights that lie there now, is kept."""
    files = sorted(folder.glob("*.safetensors"))
    about = [str(folder.absolute()), *(f"{file.name} {_size_and_time(file)}" for file in files)]
    return cache_folder() / "labs" / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]}.json"


def read_report(path: Path) -> QuantizationReport:
    """Raises: StudioError where it isn't one, or is gone."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=QuantizationReport)
    except (OSError, msgspec.DecodeError) as error:
        raise StudioError(f"{path} is no report of a quantization: {error}", hint="Measure again.") from error


def at_block_size(report: QuantizationReport) -> list[tuple[int, QuantSetting]]:
    """Of the report's own block size: place among the settings, and the setting."""
    return [
        (place, setting)
        for place, setting in enumerate(report.settings)
        if setting.block_size == report.block_size
    ]


def perplexity_of(report: QuantizationReport, quant_type: str, double_quant: bool) -> Perplexity | None:
    """None where it wasn't measured."""
    return next(
        (
            found
            for found in report.perplexities
            if (found.quant_type, found.double_quant) == (quant_type, double_quant)
        ),
        None,
    )


def outliers(report: QuantizationReport) -> list[LayerErrors]:
    """Layers that lose far more than the others, by the first setting at the report's block size."""
    at = at_block_size(report)
    if not at or len(report.layers) < 3:
        return []
    place = at[0][0]
    errors = [layer.errors[place] for layer in report.layers]
    middle = statistics.median(errors)
    spread = 1.4826 * statistics.median(abs(error - middle) for error in errors)
    found = [
        layer
        for layer in report.layers
        if layer.errors[place] - middle > OUTLIER_DEVIATIONS * max(spread, 1e-3 * middle)
    ]
    return sorted(found, key=lambda layer: -layer.errors[place])


def checks(report: QuantizationReport) -> list[Check]:
    """The paper's claims that this report can speak about."""
    found = list(_saving(report))
    for better, worse in (("nf4", "fp4"), ("fp4", "int4")):
        found += _better(report, better, worse)
    found += _unchanged(report)
    return found


def save_report(report: QuantizationReport, folder: Path) -> list[Path]:
    """Tables as CSV, pictures as SVG. Raises: StudioError where the folder can't be written."""
    texts = {
        "settings.csv": _table(_settings_rows(report)),
        "layers.csv": _table(_layer_rows(report)),
        "levels.csv": _table(_level_rows(report)),
        "error.svg": error_chart(report),
        "levels.svg": levels_chart(report),
        "layers.svg": layers_chart(report),
    }
    require_writable(folder)
    try:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise StudioError(f"{folder} can't be written: {error.strerror}.", hint="Choose another.") from error
    return [folder / name for name in texts]


def require_writable(folder: Path) -> None:
    """Makes the folder where there is none. Raises: StudioError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StudioError(f"{folder} can't be written: {error.strerror}.", hint="Choose another.") from error


def error_chart(report: QuantizationReport) -> str:
    """Error by block size, a line a type."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for setting in report.settings:
        if not setting.double_quant and setting.relative_error > 0:
            lines.setdefault(NAMES[setting.quant_type], []).append(
                (setting.block_size, 100 * setting.relative_error)
            )
    series = [Series(name, points) for name, points in lines.items()]
    title = f"Rounding error of {report.model}"
    return line_chart(title, "weights a scale (block size)", "relative error, %", series, log2_x=True)


def levels_chart(report: QuantizationReport) -> str:
    """The weights by their block's largest, with the values of NF4."""
    marks = next((item.values for item in report.levels if item.quant_type == "nf4"), ())
    title = f"Weights of {report.model}, and the values of NF4"
    label = f"weight by the largest of its block of {report.block_size}"
    return histogram(title, label, report.bins, -1.0, 1.0, marks)


def layers_chart(report: QuantizationReport) -> str:
    """Error by layer, in the order of the model, a line a type."""
    series = [
        Series(
            setting.name,
            [(number, 100 * layer.errors[place]) for number, layer in enumerate(report.layers, start=1)],
            markers=False,
        )
        for place, setting in at_block_size(report)
        if not setting.double_quant and setting.quant_type != "int8"
    ]
    title = f"Rounding error by layer, blocks of {report.block_size}"
    return line_chart(title, "linear layer, in the order of the model", "relative error, %", series)


def _size_and_time(file: Path) -> str:
    about = file.stat()
    return f"{about.st_size} {about.st_mtime_ns}"


def _saving(report: QuantizationReport) -> Iterator[Check]:
    at = {(item.quant_type, item.double_quant): item for _, item in at_block_size(report)}
    single, double = at.get(("nf4", False)), at.get(("nf4", True))
    if single is None or double is None or report.block_size != 64:
        return
    saved = single.bits_per_weight - double.bits_per_weight
    yield Check(
        claim=f"Double quantization saves {_PAPER_SAVING} bits a weight",
        holds=abs(saved - _PAPER_SAVING) < 0.002,  # small layers pay for the mean of their scales
        found=f"{saved:.3f} bits: {single.bits_per_weight:.3f} to {double.bits_per_weight:.3f}",
    )


def _better(report: QuantizationReport, better: str, worse: str) -> Iterator[Check]:
    first, second = (perplexity_of(report, kind, False) for kind in (better, worse))
    if first is None or second is None:
        return
    gap, noise = second.more - first.more, math.hypot(first.more_error, second.more_error)
    yield Check(
        claim=f"{NAMES[better]} has a lower perplexity than {NAMES[worse]} at the same size",
        holds=None if abs(gap) <= noise else gap > 0,
        found=f"{first.perplexity:.3f} and {second.perplexity:.3f}; "
        f"the gap is {gap:.4f} nats a token, the noise {noise:.4f}",
    )


def _unchanged(report: QuantizationReport) -> Iterator[Check]:
    single, double = (perplexity_of(report, "nf4", on) for on in (False, True))
    if single is None or double is None:
        return
    change = double.loss - single.loss
    yield Check(
        claim="Double quantization changes the perplexity by less than the noise",
        holds=abs(change) < single.error,
        found=f"{single.perplexity:.3f} to {double.perplexity:.3f}: {change:+.4f} nats a token; "
        f"another text would change them by {single.error:.4f}",
    )


def _table(rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _settings_rows(report: QuantizationReport) -> list[list[object]]:
    rows: list[list[object]] = [
        ["type", "block_size", "double_quant", "bits_per_weight", "relative_error", "snr_db", "perplexity"]
    ]
    base = perplexity_of(report, "none", False)
    if base is not None:
        rows.append(["none", "", "", 16, 0, "", f"{base.perplexity:.4f}"])
    for item in report.settings:
        measured = perplexity_of(report, item.quant_type, item.double_quant)
        here = measured is not None and item.block_size == report.block_size
        rows.append(
            [
                item.quant_type,
                item.block_size,
                item.double_quant,
                f"{item.bits_per_weight:.4f}",
                f"{item.relative_error:.6f}",
                "" if item.snr_db is None else f"{item.snr_db:.3f}",
                f"{measured.perplexity:.4f}" if here and measured is not None else "",
            ]
        )
    return rows


def _layer_rows(report: QuantizationReport) -> list[list[object]]:
    named = {layer.name for layer in outliers(report)}
    rows: list[list[object]] = [
        [
            "layer", "weights", "largest_in_standard_deviations", "outlier", "neurons", "non_normal",
            "type", "block_size", "double_quant", "relative_error", "snr_db",
        ]
    ]  # fmt: skip
    for layer in report.layers:
        about = [layer.name, layer.weights, f"{layer.largest:.2f}", layer.name in named]
        about += [layer.neurons, layer.non_normal]
        for item, error in zip(report.settings, layer.errors, strict=True):
            decibels = snr_db(error)
            rows.append(
                [
                    *about,
                    item.quant_type,
                    item.block_size,
                    item.double_quant,
                    f"{error:.6f}",
                    "" if decibels is None else f"{decibels:.3f}",
                ]
            )
    return rows


def _level_rows(report: QuantizationReport) -> list[list[object]]:
    rows: list[list[object]] = [["type", "level", "value", "weights", "share"]]
    for item in report.levels:
        total = sum(item.counts) or 1
        for level, (value, count) in enumerate(zip(item.values, item.counts, strict=True)):
            rows.append([item.quant_type, level, f"{value:.8f}", count, f"{count / total:.6f}"])
    return rows
