"""An adapter's shape in the words of a run's settings, for a run that trains it on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from qlora_studio.config.adapter_layers import ALL_LAYERS, ALL_LINEAR, layers_text, place_of
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import LoraConfig
from qlora_studio.config.setting import fields_of, problem_with, value_of
from qlora_studio.errors import StudioError
from qlora_studio.models.adapter import CheckedAdapter

_OTHERWISE = "Train a new adapter, or merge this one into its base and train on that."


def settings_of(adapter: CheckedAdapter, lora: LoraConfig, shape: ModelShape, where: Path) -> LoraConfig:
    """`lora` with rank, alpha, target layers, rsLoRA and DoRA of the adapter in `where`.

    Raises: StudioError where settings can't say what it is.
    """
    if shape.decoder is not None:
        raise StudioError(
            f"{where}: adapters of encoder-decoders can't be trained on here.", hint="Train a new adapter."
        )
    alphas = {adapter.alpha, *adapter.alphas.values()}
    if any(alpha != int(alpha) for alpha in alphas):
        raise StudioError(
            f"{where}: a lora_alpha of {max(alphas):g} stands in it; only whole numbers can be trained on.",
            hint=_OTHERWISE,
        )
    names, numbers = _adapted(adapter, shape, where)
    settings = msgspec.structs.replace(
        lora,
        r=adapter.r,
        alpha=int(adapter.alpha),
        target_modules=ALL_LINEAR if len(names) == len(shape.linears) else tuple(names.values()),
        layers=layers_text(numbers, shape.layers),
        ranks=_own(adapter.ranks, adapter.r, names, numbers),
        alphas=_own(
            {module: int(value) for module, value in adapter.alphas.items()},
            int(adapter.alpha),
            names,
            numbers,
        ),
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
    )
    for item in fields_of(LoraConfig):
        if problem := problem_with(item, value_of(settings, item.key)):
            raise StudioError(f"{where}: {problem}", hint=_OTHERWISE)
    return settings


def in_words(lora: LoraConfig) -> str:
    """ "rank 16, alpha 32, all linear layers"."""
    targets = lora.target_modules
    if targets == ALL_LINEAR:
        layers = "all linear layers"
    else:
        layers = targets if isinstance(targets, str) else ", ".join(targets)
    kinds = [name for name, is_on in (("rsLoRA", lora.use_rslora), ("DoRA", lora.use_dora)) if is_on]
    if lora.layers != ALL_LAYERS:
        kinds.insert(0, f"in layers {lora.layers}")
    own = [what for what, values in (("ranks", lora.ranks), ("alphas", lora.alphas)) if values]
    if own:
        kinds.append(f"{' and '.join(own)} of its own for single layers")
    return ", ".join([f"rank {lora.r}", f"alpha {lora.alpha}", layers, *kinds])


def _adapted(adapter: CheckedAdapter, shape: ModelShape, where: Path) -> tuple[dict[str, str], list[int]]:
    """Name in a layer and how a target is called, of each linear layer that is adapted; and in which layers.

    By the last part of a name where that says which one is meant.
    """
    linears = [name for name, _, _ in shape.linears]
    found: dict[str, set[int]] = {name: set() for name in linears}
    for module in adapter.target_modules:
        number, name = place_of(module)
        found[name].add(number)
    adapted = [name for name in linears if found[name]]
    numbers = found[adapted[0]]
    if any(found[name] != numbers for name in adapted):
        raise StudioError(
            f"{where}: it adapts other linear layers in one layer of the model than in another; it can't be "
            "trained on here.",
            hint=_OTHERWISE,
        )
    leaves = [name.rpartition(".")[2] for name in linears]
    means_one = all(leaves.count(name.rpartition(".")[2]) == 1 for name in adapted)
    return {name: name.rpartition(".")[2] if means_one else name for name in adapted}, sorted(numbers)


def _own(
    values: Mapping[str, int], usual: int, names: Mapping[str, str], numbers: list[int]
) -> dict[str, int]:
    """By target where all layers of the model have it alike, else with the number of the layer before it.

    values: by whole name, of those that have another one than the usual
    """
    by_place = {place_of(module): value for module, value in values.items()}
    own: dict[str, int] = {}
    for name, target in names.items():
        of_layers = [by_place.get((number, name), usual) for number in numbers]
        if len(set(of_layers)) == 1:
            own |= {target: of_layers[0]} if of_layers[0] != usual else {}
        else:
            own |= {
                f"{number}.{name}": value
                for number, value in zip(numbers, of_layers, strict=True)
                if value != usual
            }
    return own
