"""AdamW over the adapter: bitsandbytes' paged ones on a card, torch's in 32 bit on a CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qlora_studio.config.run_config import TrainingConfig
from qlora_studio.errors import StudioError

OPTIMIZER_FILE = "optimizer.safetensors"
BETAS = (0.9, 0.999)
EPSILON = 1e-8

NOT_PAGED = "The optimizer is AdamW in 32 bit; on a processor it isn't paged."


class AdapterOptimizer:
    """Moves the adapter's weights; its state can be saved and put back, tensor by tensor, by their names."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], training: TrainingConfig) -> None:
        self.parameters = dict(parameters)
        weights = list(self.parameters.values())
        self._is_cuda = weights[0].is_cuda
        self._optimizer = _adamw(weights, training, on_card=self._is_cuda)
        self.paged = self._is_cuda and training.optimizer.startswith("paged")
        self.notes = () if self._is_cuda or not training.optimizer.startswith("paged") else (NOT_PAGED,)

    def step(self, learning_rate: float) -> None:
        """One update from the gradients as they stand."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()

    def forget_gradients(self) -> None:
        """Frees them."""
        self._optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> list[Tensor]:
        """Of all weights that have one."""
        return [weight.grad for weight in self.parameters.values() if weight.grad is not None]

    @property
    def state_bytes(self) -> int:
        """As it is held now."""
        return sum(
            value.nbytes
            for state in self._optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        )

    def save(self, folder: Path) -> None:
        """Every number of the state, under "WEIGHT.KEY"."""
        if self._is_cuda:
            torch.cuda.synchronize()  # paged memory is read by the CPU
        save_file(self._state(), folder / OPTIMIZER_FILE)

    def put(self, file: Path) -> None:
        """Raises: StudioError where the file doesn't hold the state of these weights."""
        stored = load_file(file)
        for place, (name, weight) in enumerate(self.parameters.items()):
            prefix = f"{name}."
            values = {key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)}
            if not values and stored:
                raise StudioError(f"{file} holds no optimizer state for {name}.")
            if values:
                self._put_state(place, weight, values, file)

    def _state(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": torch.as_tensor(value).detach().cpu().clone()
            for name, weight in self.parameters.items()
            for key, value in self._optimizer.state[weight].items()
            if value is not None
        }

    def _put_state(self, place: int, weight: nn.Parameter, values: Mapping[str, Tensor], file: Path) -> None:
        if not self._is_bitsandbytes:
            self._optimizer.state[weight] = dict(values)
            return
        # Its buffers may lie in paged memory: they are made by bitsandbytes, then filled.
        self._optimizer.init_state(self._optimizer.param_groups[0], weight, 0, place)
        state = self._optimizer.state[weight]
        if state.keys() != values.keys():
            raise StudioError(f"{file} was written by another kind of optimizer.")
        for key, value in values.items():
            if isinstance(state[key], Tensor):
                state[key].copy_(value)
            else:
                state[key] = type(state[key])(value.item())

    @property
    def _is_bitsandbytes(self) -> bool:
        return not isinstance(self._optimizer, torch.optim.AdamW)


def _adamw(weights: list[nn.Parameter], training: TrainingConfig, *, on_card: bool) -> Any:
    settings: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": BETAS,
        "eps": EPSILON,
        "weight_decay": training.weight_decay,
    }
    if not on_card:
        return torch.optim.AdamW(weights, fused=True, **settings)
    import bitsandbytes as bnb

    kinds = {
        "paged_adamw_32bit": bnb.optim.PagedAdamW32bit,
        "paged_adamw_8bit": bnb.optim.PagedAdamW8bit,
        "adamw_32bit": bnb.optim.AdamW32bit,
    }
    return kinds[training.optimizer](weights, **settings)
