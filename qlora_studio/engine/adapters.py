"""The adapters on a base model: made anew, read from a folder, switched, saved in peft's own format."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from qlora_kernels import replace_forwards
from qlora_kernels.lora_layers import FrozenLinear4bit
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from qlora_studio.config.adapter_layers import (
    WAY_ON,
    layer_numbers,
    own_value,
    place_of,
    problem_with_layers,
)
from qlora_studio.config.run_config import LoraConfig
from qlora_studio.engine.architecture import architecture_of
from qlora_studio.engine.embedding_in_ram import bytes_in_ram
from qlora_studio.engine.loading import BaseModel
from qlora_studio.errors import StudioError
from qlora_studio.models.adapter import clean_adapter_config

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
ALL_LINEAR = "all-linear"
MOST_ADAPTERS = 4  # read from folders and kept; of an 8B model each takes up to 0.7 GB


class AdaptedModel:
    """A base model and its adapters, of which one is on, or none. The base is never changed.

    linears: full names of the layers that can take an adapter
    """

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self.replaced = replace_forwards(base.causal_lm)
        self._peft: PeftModel | None = None
        self._read_from: dict[str, str] = {}  # folder and date -> name; the one used last comes last
        self._names = itertools.count()
        self.linears = decoder_linears(base.causal_lm)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The model as transformers made it, with the adapter that is on."""
        return self.base.causal_lm

    @property
    def dequantized_bytes(self) -> int:
        """Of the copies in the compute dtype that are kept beside the 4-bit weights, with their room."""
        size = self.base.storage.compute_dtype.itemsize
        linears = (module for module in self.causal_lm.modules() if isinstance(module, FrozenLinear4bit))
        kept = (linear for linear in linears if linear.keep_dequantized)
        sizes = (linear.in_features * linear.out_features + linear.numbers_of_room for linear in kept)
        return sum(size * numbers for numbers in sizes)

    @property
    def weight_bytes(self) -> int:
        """Of the base on the device, with copies that are kept."""
        return self.base.weight_bytes + self.dequantized_bytes - bytes_in_ram(self.causal_lm)

    @property
    def names(self) -> list[str]:
        """Of the adapters that are in memory."""
        return list(self._peft.peft_config) if self._peft else []

    def add_new(self, name: str, lora: LoraConfig, seed: int) -> None:
        """A fresh adapter, on and ready to be trained; it changes nothing yet. Raises: StudioError."""
        if lora.use_dora and self.base.storage.quantization == "int8" and not self.base.device.is_cuda:
            # peft 0.21 loses the scales of an int8 weight there when it takes the lengths of its columns.
            raise StudioError(
                "DoRA on int8 weights needs a card.", hint="Store the weights as NF4, or take plain LoRA."
            )
        torch.manual_seed(seed)
        modules = adapted_modules(self.linears, lora)
        self.add(
            name,
            peft.LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                rank_pattern=_pattern(lora.ranks, modules, lora.r),
                alpha_pattern=_pattern(lora.alphas, modules, lora.alpha),
                lora_dropout=lora.dropout,
                target_modules=modules,
                use_rslora=lora.use_rslora,
                use_dora=lora.use_dora,
                bias="none",
                task_type=architecture_of(self.causal_lm.config).task_type,
            ),
        )

    def add(self, name: str, config: peft.LoraConfig) -> None:
        """An adapter of this shape, on. Its weights are float32, whatever the base computes in."""
        if self._peft is None:
            self._peft = peft.get_peft_model(self.base.causal_lm, config, adapter_name=name)
        else:
            config.base_model_name_or_path = self.base.source
            self._peft.add_adapter(name, config)
        self.replaced = replace_forwards(self._peft)
        self.use(name)

    def add_from(self, folder: Path) -> str:
        """The name of the adapter in `folder`, read unless it is in memory already.

        Its shape comes from its tensors, never from its own words (S5). Raises: StudioError.
        """
        file = folder / WEIGHTS_FILE
        if not file.is_file():
            raise StudioError(f"{file} is missing, so this is no adapter that can be read.")
        seen = file.stat()
        key = f"{folder.resolve()}:{seen.st_mtime_ns}:{seen.st_size}"
        name = self._read_from.pop(key, None)
        if name is None:
            name = f"adapter_{next(self._names)}"
            self.add(name, peft.LoraConfig(**clean_adapter_config(folder, self.base.source)))
            try:
                self.put_weights(name, file)
            except StudioError:
                self.remove(name)
                raise
        self._read_from[key] = name
        for forgotten in list(self._read_from)[:-MOST_ADAPTERS]:
            self.remove(self._read_from.pop(forgotten))
        return name

    def add_with_peft(self, folder: Path) -> str:
        """The name of an adapter of ours that peft itself has read, as other programs do."""
        assert self._peft is not None
        name = f"adapter_{next(self._names)}"
        self._peft.load_adapter(str(folder), name)
        self.replaced = replace_forwards(self._peft)
        self.use(name)
        return name

    def use(self, name: str | None) -> None:
        """Switches to an adapter, or to the base alone."""
        if self._peft is None:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name)

    def may_stand_side_by_side(self, names: Sequence[str]) -> bool:
        """Whether each row of a batch can have an adapter of its own among these, none of them mixed."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from qlora_kernels.lora_layers import FusedLoraLinear4bit, no_plain_lora_reason

        layers = [layer for layer in self.causal_lm.modules() if isinstance(layer, BaseTunerLayer)]
        return bool(layers) and all(
            isinstance(layer, FusedLoraLinear4bit)
            and not layer.merged
            and no_plain_lora_reason(layer, [name for name in names if name in layer.lora_A]) is None
            for layer in layers
        )

    @contextmanager
    def standing_side_by_side(self, names: Sequence[str | None]) -> Iterator[None]:
        """Inside, row i of a batch is computed by names[i], None: by the base; nothing is learned.

        names: or a single one, for all rows
        """
        from qlora_kernels.lora_layers import FusedLoraLinear4bit

        layers: list[Any] = [
            layer for layer in self.causal_lm.modules() if isinstance(layer, FusedLoraLinear4bit)
        ]
        for layer in layers:
            vars(layer)["rows_by"] = tuple(names)
        try:
            yield
        finally:
            for layer in layers:
                del vars(layer)["rows_by"]

    def remove(self, name: str) -> None:
        """Frees it."""
        assert self._peft is not None
        if len(self.names) == 1:
            self.base.causal_lm = self._peft.unload()
            self._peft = None
        else:
            self._peft.delete_adapter(name)

    def weights(self, name: str) -> dict[str, Tensor]:
        """By the names of peft's file."""
        state: dict[str, Tensor] = get_peft_model_state_dict(
            self._peft, adapter_name=name, save_embedding_layers=False
        )
        return state

    def trained_parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """What the optimizer moves, in a fixed order, by the names of peft's file."""
        assert self._peft is not None
        mark = f".{name}."
        return [
            (key.replace(mark, "."), parameter)
            for key, parameter in self._peft.named_parameters()
            if parameter.requires_grad and mark in key
        ]

    def put_weights(self, name: str, file: Path) -> None:
        """Raises: StudioError where the file holds other tensors than the adapter has."""
        wanted, stored = self.weights(name), load_file(file)
        for key in wanted.keys() | stored.keys():
            if key not in wanted or key not in stored or wanted[key].shape != stored[key].shape:
                raise StudioError(f"{file}: tensor {key!r} doesn't fit the adapter.")
        set_peft_model_state_dict(self._peft, stored, adapter_name=name)

    def save(self, name: str, folder: Path) -> None:
        """Two files that plain peft loads. Raises: NonFiniteError (R12)."""
        assert self._peft is not None
        weights = {key: tensor.detach().contiguous().cpu() for key, tensor in self.weights(name).items()}
        require_finite(weights.items())
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        config = copy.copy(self._peft.peft_config[name])
        config.inference_mode = True
        config.target_modules = sorted(config.target_modules)  # a set: else the file differs from run to run
        config.save_pretrained(str(folder))


class NonFiniteError(StudioError):
    """Training has lost its way: losses, gradients or weights are no numbers any more."""


def require_finite(weights: Iterable[tuple[str, Tensor]]) -> None:
    """Raises: NonFiniteError naming the first weight that holds NaN or Inf (R12)."""
    for key, tensor in weights:
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(
                f"The trained {key} is no longer finite; it was not saved.",
                hint="Go on from an older checkpoint with a lower learning rate.",
            )


def adapted_modules(linears: Sequence[str], lora: LoraConfig) -> list[str]:
    """The layers that get an adapter, by full name. Raises: StudioError where a named one is missing."""
    count = len({place_of(name)[0] for name in linears})
    in_one = list(dict.fromkeys(place_of(name)[1] for name in linears))
    chosen = chosen_modules(linears, lora.target_modules)
    _, problem = problem_with_layers(lora, in_one, count)
    if problem:
        raise StudioError(problem, hint=WAY_ON)
    numbers = layer_numbers(lora.layers, count)
    return [name for name in chosen if place_of(name)[0] in numbers]


def _pattern(values: Mapping[str, int], modules: Sequence[str], usual: int) -> dict[str, int]:
    """As peft reads it: by whole names, so that none is the end of another, whatever order a file has."""
    own = {re.escape(name): own_value(values, name, usual) for name in modules}
    return {name: value for name, value in own.items() if value != usual}


def chosen_modules(linears: Sequence[str], wanted: str | Sequence[str]) -> list[str]:
    """The layers that get an adapter, by full name. Raises: StudioError where a name fits none of them."""
    if wanted == ALL_LINEAR:
        return list(linears)
    parts = [part.strip() for part in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    for part in parts:
        if not any(_ends_with(name, part) for name in linears):
            known = sorted({name.rpartition(".")[2] for name in linears})
            raise StudioError(
                f"lora.target_modules: this model has no linear layer {part!r}.",
                hint=f"Its layers: {', '.join(known)}.",
            )
    return [name for name in linears if any(_ends_with(name, part) for part in parts)]


def decoder_linears(model: PreTrainedModel) -> list[str]:
    """Full names of every linear layer inside the model's layers; the head is none of them."""
    return [
        f"{prefix}.{name}"
        for prefix, layers in architecture_of(model.config).stacks(model)
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The layers that follow one another; of an encoder-decoder those of the encoder come first."""
    stacks = [layers for _, layers in architecture_of(model.config).stacks(model)]
    return stacks[0] if len(stacks) == 1 else nn.ModuleList(layer for stack in stacks for layer in stack)


def _ends_with(name: str, part: str) -> bool:
    return name == part or name.endswith(f".{part}")
