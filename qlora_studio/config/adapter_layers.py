"""Which linear layers get an adapter and how wide each is: settings and the names of a model put together.

A linear layer is named by its place in the model, such as "3.self_attn.q_proj" in the layer with number 3, or
by its whole name, "model.layers.3.self_attn.q_proj".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import LoraConfig, RunConfig
from qlora_studio.errors import StudioError

ALL_LAYERS = "all"
ALL_LINEAR = "all-linear"
WAY_ON = "Name layers that this model has, or leave the setting out."

_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_IN_LAYER = re.compile(r"\D*?\.(\d+)\.(.+)", re.ASCII)


def is_layers_text(layers: str) -> bool:
    """Whether it is "all", or numbers and ranges such as "0, 8-23"."""
    return layers == ALL_LAYERS or _ranges(layers) is not None


def layer_numbers(layers: str, count: int) -> frozenset[int]:
    """Those of a model with `count` layers that the text names; text that names nothing gives none."""
    if layers == ALL_LAYERS:
        return frozenset(range(count))
    return frozenset(
        number for low, high in _ranges(layers) or () for number in range(low, min(high + 1, count))
    )


def layers_text(numbers: Iterable[int], count: int) -> str:
    """`layer_numbers` taken back."""
    chosen = sorted(set(numbers))
    if len(chosen) == count:
        return ALL_LAYERS
    begins = [number for number in chosen if number - 1 not in chosen]
    ends = [number for number in chosen if number + 1 not in chosen]
    return ", ".join(
        str(low) if low == high else f"{low}-{high}" for low, high in zip(begins, ends, strict=True)
    )


def place_of(module: str) -> tuple[int, str]:
    """Number of the layer and name in it: "model.layers.3.self_attn.q_proj" to 3, "self_attn.q_proj"."""
    match = _IN_LAYER.fullmatch(f".{module}")
    assert match is not None  # a linear layer stands in a numbered layer
    return int(match[1]), match[2]


def own_value(values: Mapping[str, int], module: str, usual: int) -> int:
    """Of the longest key that is the end of the layer's name; `usual` where there is none."""
    found = [key for key in values if f".{module}".endswith(f".{key}")]
    return values[max(found, key=len)] if found else usual


def ranks(lora: LoraConfig, linears: Sequence[str], count: int) -> list[tuple[int, dict[str, int]]]:
    """(in how many layers, the rank of each linear layer there) of a model with `count` layers.

    linears: names in one layer. The ranks of those that get no adapter are told too.
    """
    numbered = _numbered(lora.ranks)
    chosen = layer_numbers(lora.layers, count)
    alike = chosen - numbered
    each = [(1, number) for number in sorted(chosen & numbered)]
    if alike:
        each.append((len(alike), min(alike)))
    return [
        (times, {name: own_value(lora.ranks, f"{number}.{name}", lora.r) for name in linears})
        for times, number in each
    ]


def differs_by_layer(lora: LoraConfig) -> bool:
    """Whether single layers of the model have ranks or alphas of their own."""
    return bool(_numbered(lora.ranks) | _numbered(lora.alphas))


def is_adapted(name: str, lora: LoraConfig) -> bool:
    """Whether a linear layer is among the targets, by its name in a layer."""
    targets = lora.target_modules
    if targets == ALL_LINEAR:
        return True
    parts = targets.split(",") if isinstance(targets, str) else targets
    return any(f".{name}".endswith(f".{part.strip()}") for part in parts)


def problem_with_layers(lora: LoraConfig, linears: Sequence[str], count: int) -> tuple[str, str]:
    """The key that this model can't follow, and why in a sentence; both empty where it can.

    linears: names in one of its `count` layers
    """
    beyond = [high for _, high in _ranges(lora.layers) or () if high >= count]
    if lora.layers != ALL_LAYERS and beyond:
        return "lora.layers", (
            f"lora.layers names layer {max(beyond):,}; this model's {count:,} layers have the numbers 0 to "
            f"{count - 1:,}."
        )
    chosen = sorted(layer_numbers(lora.layers, count))
    adapted = [f".{number}.{name}" for number in chosen for name in linears if is_adapted(name, lora)]
    for key, values in (("lora.ranks", lora.ranks), ("lora.alphas", lora.alphas)):
        for name in values:
            if not any(module.endswith(f".{name}") for module in adapted):
                return key, (
                    f"{key} names {name!r}, and no layer of that name gets an adapter. A name is the end of "
                    f"a target layer's, such as {linears[0]}, with the number of its layer before it where "
                    f"one layer alone is meant: {chosen[0] if chosen else 0}.{linears[0]}."
                )
    return "", ""


def problem_of_run(config: RunConfig, shape: ModelShape) -> tuple[str, str]:
    """As `problem_with_layers`; none where there is no adapter."""
    if config.trains_all:
        return "", ""
    lora = config.lora
    if shape.decoder is not None:
        named = {
            "lora.layers": lora.layers != ALL_LAYERS,
            "lora.ranks": lora.ranks,
            "lora.alphas": lora.alphas,
        }
        key = next((key for key, is_named in named.items() if is_named), "")
        of_two = f"{key} names layers of one stack, and an encoder-decoder has two: all its layers are alike."
        return key, of_two if key else ""
    return problem_with_layers(lora, [name for name, _, _ in shape.linears], shape.layers)


def require_layers(config: RunConfig, shape: ModelShape) -> None:
    """Raises: StudioError where this model can't follow the settings."""
    _, problem = problem_of_run(config, shape)
    if problem:
        raise StudioError(problem, hint=WAY_ON)


def _numbered(values: Mapping[str, int]) -> frozenset[int]:
    """The numbers of the layers that single keys are for."""
    return frozenset(int(first) for key in values if (first := key.partition(".")[0]).isdecimal())


def _ranges(layers: str) -> list[tuple[int, int]] | None:
    """First and last number of each; None where the text says no such thing."""
    found = []
    for part in layers.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            return None
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high:
            return None
        found.append((low, high))
    return found
