"""A model's RMS norms in one kernel each while a text is read or written; models write eight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from qlora_kernels import rms_norm
from torch import Tensor, nn

_EPSILONS = ("variance_epsilon", "eps", "epsilon")  # what transformers' norms call it
_ROUNDINGS = 3  # of which two results may differ: the bare norm's, and that of either product
_SUMMED = 1e-6  # relative: float32 sums of one row in another order


class FusedNorms:
    """Those of a model that `qlora_kernels.rms_norm` computes; the others stay as they are."""

    def __init__(self, model: nn.Module) -> None:
        same: dict[tuple[type[nn.Module], tuple[int, ...]], bool] = {}
        self._norms: list[tuple[nn.Module, float]] = []
        for module in model.modules():
            epsilon = _epsilon_of(module)
            if epsilon is None:
                continue
            kind = (type(module), tuple(module.state_dict()["weight"].shape))
            if kind not in same:
                same[kind] = _is_the_same(module, epsilon)
            if same[kind]:
                self._norms.append((module, epsilon))

    def __len__(self) -> int:
        return len(self._norms)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, these norms are one kernel each. Not for learning, which is compiled as it is written."""
        for module, epsilon in self._norms:
            vars(module)["forward"] = partial(_fused, module, epsilon)
        try:
            yield
        finally:
            for module, _ in self._norms:
                vars(module).pop("forward", None)


def _epsilon_of(module: nn.Module) -> float | None:
    """None where it is no RMS norm, or another library has replaced how it computes."""
    if not type(module).__name__.endswith("RMSNorm") or "forward" in vars(module):
        return None
    if [name for name, _ in module.named_parameters()] != ["weight"]:
        return None
    return next((getattr(module, name) for name in _EPSILONS if hasattr(module, name)), None)


@torch.no_grad()
def _is_the_same(module: nn.Module, epsilon: float) -> bool:
    """Names tell nothing: Gemma's norms multiply by 1 + weight. So it is tried."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    x = torch.linspace(-2, 3, weight.numel(), device=weight.device).to(weight.dtype).view(1, 1, -1)
    return is_rounding_apart(_fused(module, epsilon, x), module(x))


def is_rounding_apart(found: Tensor, wanted: Tensor) -> bool:
    """Whether two ways of computing this differ by no more than roundings."""
    rounding = max(torch.finfo(wanted.dtype).eps / 2, _SUMMED)
    difference = (found.float() - wanted.float()).abs()
    return bool((difference <= _ROUNDINGS * rounding * wanted.float().abs()).all())


def _fused(module: nn.Module, epsilon: float, hidden_states: Tensor, *others: Any) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    if others or hidden_states.dtype != weight.dtype:  # what then comes out is the model's affair
        return type(module).forward(module, hidden_states, *others)  # type: ignore[no-any-return]
    normed: Tensor = rms_norm(hidden_states, weight, epsilon)
    return normed
