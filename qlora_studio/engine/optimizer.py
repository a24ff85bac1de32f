"""AdamW over what is trained: bitsandbytes' paged ones on a card, torch's in 32 bit on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from qlora_kernels.cuda.managed_memory import bring_to_card, give_back
from safetensors.torch import load_file
from torch import Tensor, nn

from qlora_studio.config.run_config import ALL_WEIGHTS, TrainingConfig
from qlora_studio.engine.weight_files import Written, write_tensors
from qlora_studio.errors import StudioError

_log = logging.getLogger(__name__)

OPTIMIZER_FILE = "optimizer.safetensors"
BETAS = (0.9, 0.999)
EPSILON = 1e-8
_MOST_FLAT = 2**31 - 1  # numbers: bitsandbytes counts them in 32 bit
_NUMBERS_A_SCALE = 256  # of the 8-bit state, as bitsandbytes has it

NOT_PAGED = "The optimizer is AdamW in 32 bit; on a processor it isn't paged."


class AdapterOptimizer:
    """Moves the trained weights; its state can be saved and put back, tensor by tensor, by their names.

    A state that was saved in 32 bit can be put back into the 8-bit optimizer, not the other way.
    On a card all weights of an optimizer in 32 bit lie in one flat tensor, so that an update is one kernel
    and not one for each of hundreds of small tensors. The 8-bit optimizer keeps a scale for 256 numbers of
    one weight: there each weight stays for itself, as do all weights of a model, whose gradients would be
    held twice.
    With LoRA+ (arXiv:2402.12354) A and the rest are two groups with a learning rate each, so two kernels.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        training: TrainingConfig,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        """moved: called after each step."""
        self.parameters = dict(parameters)
        weights = list(self.parameters.values())
        self._device = weights[0].device
        self._is_cuda = weights[0].is_cuda
        self._groups = _groups(self.parameters, training)
        if _lie_flat(weights, training):
            for group in self._groups:
                group.flat = FlatWeights(list(group.weights.values()))
        self._optimizer = _adamw([group.moved for group in self._groups], training, on_card=self._is_cuda)
        self._moved = moved
        self._kept: list[Tensor] = []  # gradients, where they stay
        self.paged = self._is_cuda and training.optimizer.startswith("paged")
        self._is_fetched = True  # ahead; not where the driver refuses
        self.notes = () if self._is_cuda or not training.optimizer.startswith("paged") else (NOT_PAGED,)

    def step(self, learning_rate: float, gradient_scale: float = 1.0) -> None:
        """One update from the gradients as they stand, each times `gradient_scale`."""
        for ours, theirs in zip(self._groups, self._optimizer.param_groups, strict=True):
            theirs["lr"] = learning_rate * ours.rate_factor
        if self._is_bitsandbytes and self._optimizer.initialized:
            self._update_without_waiting(gradient_scale)
        else:
            if gradient_scale != 1:
                torch._foreach_mul_(self.gradients(), gradient_scale)
            self._optimizer.step()
        self._moved()

    def prefetch(self) -> None:
        """Has a paged state brought to the card beside what that computes, before the update asks for it page
        by page. A weight may have none, or an empty one: so `save` leaves it before the first update.
        """
        if not (self.paged and self._is_fetched):
            return
        paged = self._paged_state()
        if not paged:
            return
        try:
            # bitsandbytes' own is behind the passes on their stream, and takes time where all is there too
            bring_to_card(paged, self._device)
        except (RuntimeError, OSError, AttributeError) as error:
            self._is_fetched = False
            _log.warning("The optimizer's state comes to the card when it is asked for: %s", error)

    def close(self) -> None:
        """Gives back the memory of a paged state, which bitsandbytes holds as long as the process lives.
        Nothing of the state may be read any more.
        """
        paged = self._paged_state() if self.paged else []
        if not paged:
            return
        self._optimizer.state.clear()
        known = {id(tensor) for tensor in paged}
        pages = self._optimizer.page_mng
        pages.paged_tensors = [tensor for tensor in pages.paged_tensors if id(tensor) not in known]
        try:
            torch.cuda.synchronize(self._device)
            give_back(paged)
        except (RuntimeError, OSError, AttributeError) as error:  # of a card that failed, too
            _log.warning("The optimizer's state stays in memory until the engine ends: %s", error)

    def _paged_state(self) -> list[Tensor]:
        states = self._optimizer.state.values()
        return [value for state in states for value in state.values() if getattr(value, "is_paged", False)]

    def keep_gradients(self) -> None:
        """Zero now, and in the same memory from now on: for what adds to them where they lie."""
        self._kept = []
        for group in self._groups:
            if group.flat is not None:
                self._kept.append(group.flat.keep_gradient())
                continue
            for weight in group.weights.values():
                # bitsandbytes would else put a contiguous copy in its place
                weight.grad = torch.zeros_like(weight, memory_format=torch.contiguous_format)
                self._kept.append(weight.grad)

    def forget_gradients(self) -> None:
        """Frees them, or makes them zero where they are kept."""
        if self._kept:
            torch._foreach_zero_(self._kept)
            return
        self._optimizer.zero_grad(set_to_none=True)
        for weight in self.parameters.values():
            weight.grad = None

    def gradients(self) -> list[Tensor]:
        """Those that the next step takes: of all weights that have one, or a flat tensor of each group."""
        found = []
        for group in self._groups:
            if group.flat is not None:
                found.append(group.flat.gradient())
            else:
                found += [weight.grad for weight in group.weights.values() if weight.grad is not None]
        return found

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
        """Every number of the state, under "WEIGHT.KEY"; a tensor at a time, so that none is copied."""
        if self._is_cuda:
            torch.cuda.synchronize()  # paged memory is read by the CPU
        state = self._state()
        # Wide numbers first: a reader wants each at a multiple of its own size.
        names = sorted(state, key=lambda name: -state[name].itemsize)
        tensors = {name: Written(tuple(state[name].shape), state[name].dtype) for name in names}
        for _ in write_tensors(folder / OPTIMIZER_FILE, tensors, state.__getitem__):
            pass

    def put(self, file: Path) -> None:
        """Raises: StudioError where the file doesn't hold the state of these weights."""
        stored = load_file(file)
        states = {name: _of_weight(name, stored) for name in self.parameters}
        missing = next((name for name, state in states.items() if stored and not state), None)
        if missing is not None:
            raise StudioError(f"{file} holds no optimizer state for {missing}.")
        if not stored:
            return
        if self._groups[0].flat is not None and len({frozenset(state) for state in states.values()}) > 1:
            raise StudioError(f"{file} was written by another kind of optimizer.")
        for number, group in enumerate(self._groups):
            own = [states[name] for name in group.weights]
            if group.flat is not None:
                own = [group.flat.joined(own)]
            for place, (weight, values) in enumerate(zip(group.moved, own, strict=True)):
                self._put_state(number, place, weight, values, file)

    @torch.no_grad()
    def _update_without_waiting(self, gradient_scale: float) -> None:
        """bitsandbytes' own step waits for the card after each weight; here `save` waits, which reads it. Nor
        does it tell its kernels what gradients are to be multiplied by, which would be a pass of its own.
        """
        for number, group in enumerate(self._optimizer.param_groups):
            for place, weight in enumerate(group["params"]):
                if weight.grad is None:
                    continue
                if not self._optimizer.state[weight]:
                    self._optimizer.init_state(group, weight, number, place)
                name, state = self._optimizer.optimizer_name, self._optimizer.state[weight]
                _move(weight, name, state, group, gradient_scale)

    def _state(self) -> dict[str, Tensor]:
        parts: dict[str, Mapping[str, Any]] = {}
        for group in self._groups:
            own = [self._optimizer.state[weight] for weight in group.moved]
            if group.flat is not None:
                own = group.flat.parted(own[0])
            parts |= dict(zip(group.weights, own, strict=True))
        return {
            f"{name}.{key}": torch.as_tensor(value).detach()
            for name in self.parameters
            for key, value in parts[name].items()
            if value is not None
        }

    def _put_state(
        self, group: int, place: int, weight: nn.Parameter, values: Mapping[str, Tensor], file: Path
    ) -> None:
        if not self._is_bitsandbytes:
            self._optimizer.state[weight] = dict(values)
            return
        # Its buffers may lie in paged memory: they are made by bitsandbytes, then filled.
        self._optimizer.init_state(self._optimizer.param_groups[group], weight, group, place)
        state = self._optimizer.state[weight]
        if "absmax1" in state and "absmax1" not in values:
            values = _in_8_bit(values, state)
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


def _move(
    weight: nn.Parameter, name: str, state: dict[str, Any], group: Mapping[str, Any], gradient_scale: float
) -> None:
    """By its gradient times `gradient_scale`, as `update_step` of bitsandbytes, which has none, moves it by
    its gradient. state: of this weight; group: bitsandbytes' own, of which it is
    """
    from bitsandbytes import functional

    state["step"] += 1
    weight.data, weight.grad = weight.data.contiguous(), cast(Tensor, weight.grad).contiguous()
    given = {key: state[key] for key in ("step", "state1", "state2")}
    given |= {"optimizer_name": name, "g": weight.grad, "p": weight, "gnorm_scale": gradient_scale}
    given |= {"beta1": group["betas"][0], "beta2": group["betas"][1], "beta3": 0.0, "alpha": 0.0}
    given |= {key: group[key] for key in ("lr", "eps", "weight_decay")}
    if state["state1"].dtype == torch.uint8:
        scales = {key: state[key] for key in ("qmap1", "qmap2", "absmax1", "absmax2")}
        functional.optimizer_update_8bit_blockwise(**given, **scales)
    else:
        functional.optimizer_update_32bit(**given)


@dataclass
class _Group:
    """Weights that share a learning rate: the run's own times `rate_factor`.

    flat: all of them in one tensor, where they lie so
    """

    weights: dict[str, nn.Parameter]
    rate_factor: float
    flat: FlatWeights | None = None

    @property
    def moved(self) -> list[nn.Parameter]:
        """What the optimizer is given."""
        return [self.flat.weight] if self.flat is not None else list(self.weights.values())


def _groups(parameters: Mapping[str, nn.Parameter], training: TrainingConfig) -> list[_Group]:
    """One; with LoRA+ A, and B with what else there is: DoRA's lengths, as in peft."""
    ratio = training.loraplus_ratio
    if ratio == 1 or training.finetuning == ALL_WEIGHTS:
        return [_Group(dict(parameters), 1.0)]
    first = {name: weight for name, weight in parameters.items() if ".lora_A." in name}
    rest = {name: weight for name, weight in parameters.items() if name not in first}
    return [_Group(first, 1.0), _Group(rest, ratio)]


def _lie_flat(weights: Sequence[nn.Parameter], training: TrainingConfig) -> bool:
    numbers = sum(weight.numel() for weight in weights)
    is_small = training.finetuning != ALL_WEIGHTS and numbers <= _MOST_FLAT
    return weights[0].is_cuda and training.optimizer.endswith("32bit") and is_small


class FlatWeights:
    """One tensor in which many weights lie one behind the other; they go on as views of it.

    weight: any float dtype [numbers of all]
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self._weights = list(weights)
        self._sizes = [weight.numel() for weight in weights]
        self.weight = nn.Parameter(torch.cat([weight.detach().reshape(-1) for weight in weights]))
        for weight, part in zip(
            self._weights, self.weight.detach().split_with_sizes(self._sizes), strict=True
        ):
            weight.data = part.view(weight.shape)

    def gradient(self) -> Tensor:
        """Of all weights, gathered once until `weight.grad` is forgotten; 0 where a weight has none."""
        if self.weight.grad is None:
            parts = [
                torch.zeros_like(weight).view(-1) if weight.grad is None else weight.grad.reshape(-1)
                for weight in self._weights
            ]
            self.weight.grad = torch.cat(parts)
            for weight in self._weights:
                weight.grad = None  # or the gradients would be held twice
        return self.weight.grad

    def keep_gradient(self) -> Tensor:
        """Zero; those of the weights become views of it."""
        self.weight.grad = torch.zeros_like(self.weight)
        parts = self.weight.grad.split_with_sizes(self._sizes)
        for weight, part in zip(self._weights, parts, strict=True):
            weight.grad = part.view(weight.shape)
        return self.weight.grad

    def parted(self, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The state of each weight: its part of what is as long as the flat one, a copy of the rest."""
        return [
            {key: self._part(value, number) for key, value in state.items()}
            for number in range(len(self._weights))
        ]

    def joined(self, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """`parted` taken back."""
        return {
            key: torch.cat([state[key].reshape(-1) for state in states]) if value.dim() else value
            for key, value in states[0].items()
        }

    def _part(self, value: Any, number: int) -> Any:
        if not isinstance(value, Tensor) or value.numel() != self.weight.numel():
            return value
        return value.view(-1).split_with_sizes(self._sizes)[number].view(self._weights[number].shape)


def _in_8_bit(values: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state in 32 bit as the 8-bit optimizer keeps it, by its own maps, a scale for each 256 numbers.

    state: the 8-bit one of this weight, of which the maps are taken
    """
    from bitsandbytes.functional import quantize_blockwise

    found = {"step": values["step"]}
    for number in ("1", "2"):
        code = state[f"qmap{number}"]
        full = values[f"state{number}"].to(code.device)
        quantized, scales = quantize_blockwise(full.contiguous(), code=code, blocksize=_NUMBERS_A_SCALE)
        found |= {f"state{number}": quantized, f"qmap{number}": code, f"absmax{number}": scales.absmax}
    return found


def _of_weight(name: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)}


def _adamw(groups: list[list[nn.Parameter]], training: TrainingConfig, *, on_card: bool) -> Any:
    given = [{"params": weights} for weights in groups]
    settings: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": BETAS,
        "eps": EPSILON,
        "weight_decay": training.weight_decay,
    }
    if not on_card:
        return torch.optim.AdamW(given, fused=True, **settings)
    import bitsandbytes as bnb

    kinds = {
        "paged_adamw_32bit": bnb.optim.PagedAdamW32bit,
        "paged_adamw_8bit": bnb.optim.PagedAdamW8bit,
        "adamw_32bit": bnb.optim.AdamW32bit,
    }
    return kinds[training.optimizer](given, **settings)
