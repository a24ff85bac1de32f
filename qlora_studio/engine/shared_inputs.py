"""Products with the same input, as query, key and value are, in one kernel while a reply is written.

Which they are no name tells: one step of the model is watched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from qlora_kernels import MOST_WEIGHTS
from torch import Tensor, nn


@dataclass(eq=False)
class _Group:
    """Layers that get the same tensor. made: what those will return that weren't called yet."""

    layers: list[Any]
    x: Tensor | None = None
    made: dict[Any, Tensor] = field(default_factory=dict)


class SharedInputs:
    """Of a model whose 4-bit layers have our products."""

    def __init__(self, model: nn.Module) -> None:
        from qlora_kernels.lora_layers import products_in

        self._layers = products_in(model)
        self._groups: list[_Group] = []

    def __len__(self) -> int:
        return len(self._groups)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, one step is made; afterwards it is known what belongs together."""
        calls: list[tuple[Any, Tensor]] = []

        def watch(layer: Any, x: Tensor, *others: Any, **named: Any) -> Tensor:
            calls.append((layer, x))
            made: Tensor = type(layer).forward(layer, x, *others, **named)
            return made

        for layer in self._layers:
            vars(layer)["forward"] = partial(watch, layer)
        try:
            yield
        finally:
            self._let_be(self._layers)
        self._groups = _groups_of(calls)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the first layer of a group computes for all of them."""
        for group in self._groups:
            for layer in group.layers:
                vars(layer)["forward"] = partial(_from_group, group, layer)
        try:
            yield
        finally:
            for group in self._groups:
                self._let_be(group.layers)
                group.x, group.made = None, {}

    def _let_be(self, layers: list[Any]) -> None:
        for layer in layers:
            vars(layer).pop("forward", None)


def _groups_of(calls: list[tuple[Any, Tensor]]) -> list[_Group]:
    from qlora_kernels.lora_layers import fits_beside, writes_replies

    groups: list[_Group] = []
    for layer, x in calls:
        last = groups[-1] if groups else None
        takes_part = writes_replies(layer, x)
        if takes_part and last is not None and last.x is x and fits_beside(layer, last.layers[0]):
            last.layers.append(layer)
        else:
            groups.append(_Group([layer], x if takes_part else None))
        if len(groups[-1].layers) == MOST_WEIGHTS:
            groups.append(_Group([]))
    for group in groups:
        group.x = None
    called = [layer for layer, _ in calls]
    return [
        group
        for group in groups
        if len(group.layers) > 1 and all(called.count(layer) == 1 for layer in group.layers)
    ]


def _from_group(group: _Group, layer: Any, x: Tensor, *others: Any, **named: Any) -> Tensor:
    from qlora_kernels.lora_layers import products_of

    if others or named:
        made: Tensor = type(layer).forward(layer, x, *others, **named)
        return made
    if group.x is not x or layer not in group.made:
        group.x = x
        group.made = dict(zip(group.layers, products_of(x, group.layers), strict=True))
    return group.made.pop(layer)
