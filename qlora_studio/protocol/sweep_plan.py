"""A sweep put together from what a person chose: the same for window and terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from qlora_studio.config.adapter_layers import require_layers
from qlora_studio.config.architecture import require_trainable
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import OF_THE_START, RunConfig
from qlora_studio.config.toml_file import parse_assignment, with_changes
from qlora_studio.config.unusual import adapter_rate, full_rate
from qlora_studio.errors import StudioError
from qlora_studio.memory.parts import trained_parameters
from qlora_studio.runs.sweep import Point, Sweep

OVER = {  # what the QLoRA paper compares
    "ranks": "Ranks 8 to 256",
    "layers": "Adapters on attention, feed-forward or all layers",
    "precision": "16 bit, NF4 and FP4",
    "finetuning": "All weights, 16-bit LoRA and QLoRA",
}
_NOT_OF_ENCODER_DECODERS = ("finetuning",)  # all their weights can't be trained
SEED = "training.seed"  # each point has its own beside what is varied
RANKS = (8, 16, 32, 64, 128, 256)  # QLoRA, arXiv:2305.14314, figure 4 and appendix A
Variant = tuple[str, dict[str, Any]]  # label, changes


class Rates(NamedTuple):
    """Learning rates of what is compared over finetuning."""

    all_weights: float
    adapters: float


def offered(shape: ModelShape) -> dict[str, str]:
    """Of OVER, what can be compared with this model."""
    unfit = _NOT_OF_ENCODER_DECODERS if shape.decoder is not None else ()
    return {over: words for over, words in OVER.items() if over not in unfit}


def new_sweep(
    config: RunConfig,
    shape: ModelShape,
    *,
    over: str = "",
    vary: str = "",
    rate_of_all: float | None = None,
    seeds: Iterable[int] = (0,),
    runs_dir: Path,
    accept_skipped: bool = False,
) -> Sweep:
    """Every run is checked before the first starts. Raises: StudioError.

    over:        a key of OVER; or else vary: a.b=v,w
    rate_of_all: learning rate where all weights learn; None: the settings' own where they train all, else a
                 tenth of it
    """
    label, axis, listed = variants(over, vary, shape, _rates(config, rate_of_all))
    _refuse_what_the_start_brings(config, listed)
    points = tuple(
        _point(config, shape, name, changes, seed)
        for seed in dict.fromkeys(seeds)  # a seed after the other: a table soon has all labels
        for name, changes in listed
    )
    return Sweep(
        title=f"{label}: {Path(config.model.path).name}",
        config=config,
        points=points,
        axis=axis,
        runs_dir=str(runs_dir),
        accept_skipped=accept_skipped,
    )


def _rates(config: RunConfig, rate_of_all: float | None) -> Rates:
    """What is set is for what these settings train; the other is derived."""
    rate = config.training.learning_rate
    if config.trains_all:
        return Rates(rate_of_all or rate, adapter_rate(rate))
    return Rates(rate_of_all or full_rate(rate), rate)


def variants(
    over: str, vary: str, shape: ModelShape, rates: Rates | None = None
) -> tuple[str, str, list[Variant]]:
    """What the sweep is of, the key of its axis or "", and its labels with their changes.

    rates: where it is over finetuning
    Raises: StudioError.
    """
    if over == "finetuning":
        assert rates is not None
        return "Finetuning", "", _finetuning_choices(rates)
    if over == "ranks":
        return "Rank", "lora.r", [(f"r = {rank}", {"lora.r": rank}) for rank in RANKS]
    if over == "layers":
        return "Adapted layers", "", _layer_choices(shape)
    if over == "precision":
        return (
            "QLoRA and 16-bit LoRA",
            "",
            [
                ("LoRA, 16 bit", {"model.quantization": "none"}),
                ("QLoRA, NF4 + DQ", {"model.quantization": "nf4", "model.double_quant": True}),
                ("QLoRA, NF4", {"model.quantization": "nf4", "model.double_quant": False}),
                ("QLoRA, FP4", {"model.quantization": "fp4", "model.double_quant": False}),
            ],
        )
    key, _, listed = vary.partition("=")
    values = [parse_assignment(f"{key}={value}")[1] for value in listed.split(",") if value.strip()]
    if len(values) < 2:
        raise StudioError(f"--vary {vary} names no two values.", hint="Such as lora.r=8,16,32.")
    if key.strip() == SEED:
        raise StudioError(f"--vary {SEED} compares nothing.", hint="--seeds makes each run with several.")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise StudioError(f"--vary {vary} names {value} twice.", hint="Each value makes runs of its own.")
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    axis = key if are_numbers and all(value > 0 for value in values) else ""
    return key, axis, [(f"{key} = {value}", {key: value}) for value in values]


def _refuse_what_the_start_brings(config: RunConfig, listed: list[Variant]) -> None:
    with_all = (*OF_THE_START, "training.finetuning")  # all weights would not start where the adapters do
    brought = next((key for _, changes in listed for key in changes if key in with_all), None)
    if config.lora.start_from and brought:
        raise StudioError(
            f"{brought} can't be compared here: the adapter in lora.start_from brings its own.",
            hint="Leave lora.start_from empty, and each run begins with a new adapter.",
        )


def _finetuning_choices(rates: Rates) -> list[Variant]:
    """First the one that the others are compared with."""
    adapter = {"training.finetuning": "lora", "training.learning_rate": rates.adapters}
    return [
        (
            f"all weights, lr {rates.all_weights:g}",  # as long as a legend has room for
            {
                "training.finetuning": "full",
                "model.quantization": "none",
                "training.learning_rate": rates.all_weights,
            },
        ),
        ("LoRA, 16 bit", adapter | {"model.quantization": "none"}),
        ("QLoRA, NF4 + DQ", adapter | {"model.quantization": "nf4", "model.double_quant": True}),
    ]


def _layer_choices(shape: ModelShape) -> list[Variant]:
    names = list(dict.fromkeys(name for name, _, _ in shape.all_linears))
    attention = [name for name in names if "att" in name.rpartition(".")[0].lower()]
    feed_forward = [name for name in names if name not in attention]
    if not attention or not feed_forward:
        raise StudioError(f"The linear layers of {shape.family} aren't told apart here: {', '.join(names)}.")
    return [
        ("all linear layers", {"lora.target_modules": "all-linear"}),
        ("attention", {"lora.target_modules": attention}),
        ("feed-forward", {"lora.target_modules": feed_forward}),
    ]


def _point(config: RunConfig, shape: ModelShape, label: str, changes: dict[str, Any], seed: int) -> Point:
    """Raises: StudioError where a setting can't stand."""
    whole = changes | {SEED: seed}
    settings = with_changes(config, whole)
    if settings.trains_all and any(key.startswith("lora.") for key in changes):
        raise StudioError(
            "These settings train all weights: what is changed of the adapter changes nothing.",
            hint="Set training.finetuning to 'lora'.",
        )
    require_trainable(settings, shape)
    require_layers(settings, shape)
    parameters = trained_parameters(shape, settings)
    return Point(label=label, seed=seed, changes=whole, parameters=parameters)
