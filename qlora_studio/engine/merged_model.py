"""A merged model: which weights the adapter goes into, the files beside them, and reading all of it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import psutil
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, GenerationConfig

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.checkpointing import copy_tokenizer
from qlora_studio.engine.merging import DEQUANTIZED, ORIGINAL, MergedWeights, StoredWeights
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.verifying import (
    Reference,
    difference,
    log_probabilities,
    plain_log_probabilities,
    weights_from,
)
from qlora_studio.models.clean_config import clean_config

_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
_HEADROOM = 1.2  # of memory for a model that is read again, over its weights alone


def closest_merge(
    adapted: AdaptedModel, adapter: str, trained: Reference, go_on: Callable[[], None]
) -> tuple[MergedWeights, str]:
    """The merge that answers most like the adapter as trained, and in words why.

    The adapter learned on quantized weights. Merged into them it keeps what it learned to make good; merged
    into the original ones it meets numbers it has never seen, which may be closer to the truth or not.
    go_on: asked before each layer; raises where the export was stopped
    """
    quantization = adapted.base.storage.quantization
    if quantization == "none":
        return MergedWeights(adapted, adapter, ORIGINAL), "Merged into the model's own weights."
    kl = {base: _kl_merged_into(base, adapted, adapter, trained, go_on) for base in (DEQUANTIZED, ORIGINAL)}
    names = {DEQUANTIZED: f"dequantized {quantization.upper()} weights", ORIGINAL: "original weights"}
    best, other = sorted(kl, key=kl.__getitem__)
    return MergedWeights(adapted, adapter, best), (
        f"Merged into the {names[best]}: mean KL to the adapter as trained {kl[best]:.2g} nats a token, "
        f"with the {names[other]} {kl[other]:.2g}."
    )


def write_texts(folder: Path, adapted: AdaptedModel, dtype: torch.dtype) -> None:
    """Config, stop tokens, tokenizer, template and licence: with the weights, all that others need."""
    source = Path(adapted.base.source)
    clean = clean_config(source)
    config = CONFIG_MAPPING[clean.model_type](**clean.values)
    config.architectures = [type(adapted.causal_lm).__name__]
    config.dtype = dtype
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=clean.values["bos_token_id"],
        eos_token_id=list(clean.stop_ids) or None,
        pad_token_id=clean.values["pad_token_id"],
    ).save_pretrained(folder)
    copy_tokenizer(source, folder)
    copy_licence(source, folder)


def copy_licence(source: Path, folder: Path) -> None:
    """The base's, where it has one: what is derived from it carries it on."""
    for name in _LICENCES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def read_again(
    folder: Path, holder: ModelHolder, trained: Reference, weights: int
) -> tuple[Iterator[Tensor], str]:
    """Log-probabilities by the model in `folder`, and what read it. weights: how many numbers it has.

    By transformers alone wherever a 16-bit model fits, on the device or beside it; the model that was trained
    makes room where it must. Else by our own code with a layer in memory at a time.
    """
    adapted = holder.held
    assert adapted is not None
    device, dtype = holder.device, adapted.base.storage.compute_dtype
    needed = int(weights * dtype.itemsize * _HEADROOM)
    plain = f"transformers {metadata.version('transformers')}"
    if needed <= device.free_bytes() + adapted.base.weight_bytes:
        if needed > device.free_bytes():
            del adapted
            holder.let_go()
        return plain_log_probabilities(folder, trained.talks, dtype, device.torch_device), plain
    if needed <= psutil.virtual_memory().available:
        return plain_log_probabilities(folder, trained.talks, dtype, torch.device("cpu")), plain
    return _by_layers(folder, adapted, trained), "QLoRA Studio, a layer at a time"


def _by_layers(folder: Path, adapted: AdaptedModel, trained: Reference) -> Iterator[Tensor]:
    model = adapted.causal_lm
    with weights_from(model, adapted.linears, StoredWeights(folder).tensor):
        yield from log_probabilities(model, trained.talks)


def _kl_merged_into(
    base: str, adapted: AdaptedModel, adapter: str, trained: Reference, go_on: Callable[[], None]
) -> float:
    merged = MergedWeights(adapted, adapter, base)

    def tensor(name: str) -> Tensor:
        go_on()
        return merged.tensor(name)

    model = adapted.causal_lm
    with weights_from(model, adapted.linears, tensor):
        return difference(trained, log_probabilities(model, trained.talks)).mean_kl
