"""A merged model: which weights the adapter goes into, the files beside them, and reading all of it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import bitsandbytes
import psutil
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, GenerationConfig

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.checkpointing import copy_tokenizer
from qlora_studio.engine.merging import DEQUANTIZED, ORIGINAL, MergedWeights, StoredWeights, TensorOf
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
    adapted: AdaptedModel,
    adapter: str,
    trained: Reference,
    go_on: Callable[[], None],
    as_stored: Callable[[MergedWeights], TensorOf] = lambda merged: merged.tensor,
    then: str = "",
) -> tuple[MergedWeights, str]:
    """The merge that answers most like the adapter as trained, and in words why.

    The adapter learned on quantized weights. Merged into them it keeps what it learned to make good; merged
    into the original ones it meets numbers it has never seen, which may be closer to the truth or not.
    go_on: asked before each layer; raises where the export was stopped
    as_stored, then: what the file will make of the merged weights, where it rounds them further, and in words
    """
    quantization = adapted.base.storage.quantization
    if not adapter:
        words = f"All weights were trained: nothing is merged{then}."
        return MergedWeights(adapted, adapter, ORIGINAL), words
    if quantization == "none":
        return MergedWeights(adapted, adapter, ORIGINAL), f"Merged into the model's own weights{then}."
    kl = {
        base: _kl(adapted, as_stored(MergedWeights(adapted, adapter, base)), trained, go_on)
        for base in (DEQUANTIZED, ORIGINAL)
    }
    names = {DEQUANTIZED: f"dequantized {quantization.upper()} weights", ORIGINAL: "original weights"}
    best, other = sorted(kl, key=kl.__getitem__)
    return MergedWeights(adapted, adapter, best), (
        f"Merged into the {names[best]}{then}: mean KL to the adapter as trained {kl[best]:.2g} nats "
        f"a token, with the {names[other]} {kl[other]:.2g}."
    )


def write_texts(
    folder: Path, adapted: AdaptedModel, dtype: torch.dtype, quantization: dict[str, Any] | None = None
) -> None:
    """Config, stop tokens, tokenizer, template and licence: with the weights, all that others need.

    quantization: how the weights are stored, as transformers' config says it; None: in 16 bit
    """
    source = Path(adapted.base.source)
    clean = clean_config(source)
    config = CONFIG_MAPPING[clean.model_type](**clean.values)
    config.architectures = [type(adapted.causal_lm).__name__]
    config.tie_word_embeddings = clean.values["tie_word_embeddings"]  # T5's config class says True, always
    config.dtype = dtype
    if quantization is not None:
        config.quantization_config = quantization
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=clean.values["bos_token_id"],
        eos_token_id=list(clean.stop_ids) or None,
        pad_token_id=clean.values["pad_token_id"],
        decoder_start_token_id=clean.values.get("decoder_start_token_id"),  # transformers looks here alone
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


def read_nf4_again(
    folder: Path, holder: ModelHolder, trained: Reference, weight_bytes: int
) -> tuple[Iterator[Tensor], str]:
    """The same of a model in NF4, by transformers and bitsandbytes. weight_bytes: of its files.

    It takes no more room than the model that was trained, which leaves where both don't fit.
    """
    adapted, device = holder.held, holder.device
    assert adapted is not None
    dtype = adapted.base.storage.compute_dtype
    del adapted
    if int(weight_bytes * _HEADROOM) > device.free_bytes():
        holder.let_go()
    reader = f"transformers {metadata.version('transformers')}, bitsandbytes {bitsandbytes.__version__}"
    return plain_log_probabilities(folder, trained.talks, dtype, device.torch_device), reader


def _by_layers(folder: Path, adapted: AdaptedModel, trained: Reference) -> Iterator[Tensor]:
    model = adapted.causal_lm
    with weights_from(model, adapted.linears, StoredWeights(folder).tensor):
        yield from log_probabilities(model, trained.talks)


def _kl(adapted: AdaptedModel, tensor_of: TensorOf, trained: Reference, go_on: Callable[[], None]) -> float:
    def tensor(name: str) -> Tensor:
        go_on()
        return tensor_of(name)

    model = adapted.causal_lm
    with weights_from(model, adapted.linears, tensor):
        return difference(trained, log_probabilities(model, trained.talks)).mean_kl
