"""An adapter's shape in the words of a run's settings, for a run that trains it on."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import LoraConfig
from qlora_studio.config.setting import fields_of, problem_with, value_of
from qlora_studio.errors import StudioError
from qlora_studio.models.adapter import CheckedAdapter

ALL_LINEAR = "all-linear"
_IN_LAYER = re.compile(r"\D*?\.(\d+)\.(.+)")  # "model.layers.3.self_attn.q_proj"
_OTHERWISE = "Train a new adapter, or merge this one into its base and train on that."


def settings_of(adapter: CheckedAdapter, lora: LoraConfig, shape: ModelShape, where: Path) -> LoraConfig:
    """`lora` with rank, alpha, target layers, rsLoRA and DoRA of the adapter in `where`.

    Raises: StudioError where settings can't say what it is.
    """
    if adapter.ranks or adapter.alphas:
        raise StudioError(
            f"{where}: this adapter's rank or alpha differ from layer to layer; it can't be trained on here.",
            hint=_OTHERWISE,
        )
    if adapter.alpha != int(adapter.alpha):
        raise StudioError(
            f"{where}: its lora_alpha is {adapter.alpha:g}; only whole numbers can be trained on.",
            hint=_OTHERWISE,
        )
    settings = msgspec.structs.replace(
        lora,
        r=adapter.r,
        alpha=int(adapter.alpha),
        target_modules=_targets(adapter, shape, where),
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
    return ", ".join([f"rank {lora.r}", f"alpha {lora.alpha}", layers, *kinds])


def _targets(adapter: CheckedAdapter, shape: ModelShape, where: Path) -> str | tuple[str, ...]:
    """By the last part of their names where that says which ones are meant."""
    linears = [name for name, _, _ in shape.linears]
    found: dict[str, set[int]] = {name: set() for name in linears}
    for module in adapter.target_modules:
        match = _IN_LAYER.fullmatch(module)
        assert match is not None  # they were taken from the model's own plan
        found[match[2]].add(int(match[1]))
    adapted = [name for name in linears if found[name]]
    if any(len(found[name]) < shape.layers for name in adapted):
        raise StudioError(
            f"{where}: it adapts some of the model's {shape.layers} layers and others not; it can't be "
            "trained on here.",
            hint=_OTHERWISE,
        )
    if len(adapted) == len(linears):
        return ALL_LINEAR
    leaves = [name.rpartition(".")[2] for name in linears]
    means_one = all(leaves.count(name.rpartition(".")[2]) == 1 for name in adapted)
    return tuple(name.rpartition(".")[2] if means_one else name for name in adapted)
