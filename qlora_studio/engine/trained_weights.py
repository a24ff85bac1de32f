"""What a run trains, as optimizer and checkpoint see it: an adapter, or all weights of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from qlora_studio.config.run_config import RunConfig
from qlora_studio.engine.adapters import WEIGHTS_FILE, AdaptedModel, require_finite
from qlora_studio.engine.loading import BaseModel
from qlora_studio.engine.weight_files import Written, write_tensors
from qlora_studio.errors import StudioError

ADAPTER = "tuned"  # the name of the adapter in training, in memory only
ALL_WEIGHTS_FILE = "model.safetensors"  # of a checkpoint, fp32


class TrainedWeights(Protocol):
    """parameters: what the optimizer moves, fp32, in a fixed order, by the names in the checkpoint."""

    parameters: dict[str, nn.Parameter]

    @property
    def bytes_beside(self) -> int:
        """Of gradients and weights, less what the base counts already."""

    def moved(self) -> None:
        """The optimizer has made a step."""

    def save(self, folder: Path) -> None:
        """Into a checkpoint. Raises: NonFiniteError (R12)."""

    def put(self, folder: Path) -> None:
        """Back from one that was verified. Raises: StudioError where it holds other tensors."""


def weights_to_train(adapted: AdaptedModel, config: RunConfig) -> TrainedWeights:
    """Fresh, and changing nothing yet."""
    return AllWeights(adapted.base) if config.trains_all else TrainedAdapter(adapted, config)


class TrainedAdapter:
    """The adapter `ADAPTER` of a base that stays as it is."""

    def __init__(self, adapted: AdaptedModel, config: RunConfig) -> None:
        self._adapted = adapted
        adapted.add_new(ADAPTER, config.lora, config.training.seed)
        self.parameters = dict(adapted.trained_parameters(ADAPTER))

    @property
    def bytes_beside(self) -> int:
        return 2 * sum(weight.nbytes for weight in self.parameters.values())

    def moved(self) -> None:
        """The model computes with these very weights."""

    def save(self, folder: Path) -> None:
        self._adapted.save(ADAPTER, folder)

    def put(self, folder: Path) -> None:
        self._adapted.put_weights(ADAPTER, folder / WEIGHTS_FILE)


class AllWeights:
    """Every weight of a base that isn't quantized. From here on the base is another one.

    A model that computes in 16 bit keeps each weight in fp32 beside: updates are smaller than its steps. Its
    gradients, too, are summed there, and none stays in 16 bit.
    """

    def __init__(self, base: BaseModel) -> None:
        """Raises: StudioError where the base is quantized."""
        if base.storage.quantization != "none":
            raise StudioError(
                f"Weights in {base.storage.quantization} can't be trained.",
                hint="Set model.quantization to 'none' (16 bit).",
            )
        self._computed_with = dict(base.causal_lm.named_parameters())  # one that is tied comes once
        self.parameters: dict[str, nn.Parameter] = {}
        for name, weight in self._computed_with.items():
            weight.requires_grad_(True)
            if weight.dtype == torch.float32:
                self.parameters[name] = weight
                continue
            self.parameters[name] = nn.Parameter(weight.detach().float())
            weight.register_post_accumulate_grad_hook(_summed_in(self.parameters[name]))

    @property
    def bytes_beside(self) -> int:
        """Gradients; and the fp32 weights where they lie beside the computed ones."""
        return sum(
            weight.nbytes * (1 if weight is self._computed_with[name] else 2)
            for name, weight in self.parameters.items()
        )

    @torch.no_grad()
    def moved(self) -> None:
        for name, weight in self._computed_with.items():
            if weight is not self.parameters[name]:
                weight.copy_(self.parameters[name])

    def save(self, folder: Path) -> None:
        """One tensor at a time: a second copy of a whole model may not fit."""
        require_finite(self.parameters.items())
        tensors = {name: Written(tuple(item.shape), item.dtype) for name, item in self.parameters.items()}
        for _ in write_tensors(folder / ALL_WEIGHTS_FILE, tensors, self.tensor):
            pass

    def tensor(self, name: str) -> Tensor:
        """fp32, on the device."""
        return self.parameters[name].detach()

    @torch.no_grad()
    def put(self, folder: Path) -> None:
        file = folder / ALL_WEIGHTS_FILE
        with safe_open(file, framework="pt") as stored:
            names = set(stored.keys())
            for name in names | self.parameters.keys():
                there = name in names and name in self.parameters
                if not there or stored.get_slice(name).get_shape() != list(self.parameters[name].shape):
                    raise StudioError(f"{file}: tensor {name!r} doesn't fit the model.")
            for name, weight in self.parameters.items():
                weight.copy_(stored.get_tensor(name))
        self.moved()


def _summed_in(master: nn.Parameter) -> Callable[[Tensor], None]:
    """Takes a gradient in 16 bit over into that of `master`."""

    def take(weight: Tensor) -> None:
        assert weight.grad is not None
        gradient = weight.grad.float()
        weight.grad = None
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    return take
