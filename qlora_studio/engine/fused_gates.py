"""The gate of a model's feed-forward layers in one kernel while a reply is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from qlora_kernels import gated_silu
from torch import Tensor, nn
from transformers import PreTrainedModel

from qlora_studio.engine.fused_norms import is_rounding_apart

_PARTS = {"gate_proj", "up_proj", "down_proj"}


class FusedGates:
    """Those layers of a model that are down(silu(gate) * up); the others stay as they are."""

    def __init__(self, model: PreTrainedModel) -> None:
        same: dict[tuple[type[nn.Module], type], bool] = {}
        self._layers: list[nn.Module] = []
        for module in model.modules():
            names = {name for name, _ in module.named_children()}
            if not names >= _PARTS or not hasattr(module, "act_fn") or "forward" in vars(module):
                continue
            kind = (type(module), type(module.act_fn))
            if kind not in same:
                same[kind] = _is_the_same(module, model)
            if same[kind]:
                self._layers.append(module)

    def __len__(self) -> int:
        return len(self._layers)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, these layers compute so. Not for learning."""
        for layer in self._layers:
            vars(layer)["forward"] = partial(_fused, layer)
        try:
            yield
        finally:
            for layer in self._layers:
                vars(layer).pop("forward", None)


@torch.no_grad()
def _is_the_same(layer: Any, model: PreTrainedModel) -> bool:
    """Names tell nothing of what is done between the products. So it is tried."""
    columns = model.config.hidden_size
    x = torch.linspace(-2, 3, columns, device=model.device).sin().to(model.dtype).view(1, 1, -1)
    try:
        return is_rounding_apart(_fused(layer, x), layer(x))
    except (TypeError, RuntimeError):  # it takes other arguments, or other shapes
        return False


def _fused(layer: Any, x: Tensor) -> Tensor:
    made: Tensor = layer.down_proj(gated_silu(layer.gate_proj(x), layer.up_proj(x)))
    return made
