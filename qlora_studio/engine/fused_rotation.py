"""Rotary positions in one kernel while a text is read or written: as models write them they are ten."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from qlora_kernels import rotate
from torch import Tensor
from transformers import PreTrainedModel

from qlora_studio.engine.fused_norms import is_rounding_apart

_NAME = "apply_rotary_pos_emb"  # what the files of transformers' models call it
_TRIED = 64  # width of a head

Rotation = Callable[..., tuple[Tensor, Tensor]]


class FusedRotation:
    """That of a model whose own function gives the same; another stays as it is."""

    def __init__(self, model: PreTrainedModel) -> None:
        files = {sys.modules[type(module).__module__] for module in model.modules()}
        found = [(file, getattr(file, _NAME)) for file in files if hasattr(file, _NAME)]
        self._rotations: list[tuple[ModuleType, Rotation]] = [
            (file, rotation) for file, rotation in found if _is_the_same(rotation, model.dtype, model.device)
        ]

    def __len__(self) -> int:
        return len(self._rotations)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, models of this family rotate so."""
        for file, rotation in self._rotations:
            setattr(file, _NAME, partial(_fused, rotation))
        try:
            yield
        finally:
            for file, rotation in self._rotations:
                setattr(file, _NAME, rotation)


@torch.no_grad()
def _is_the_same(rotation: Rotation, dtype: torch.dtype, device: torch.device) -> bool:
    """Some families turn neighbours instead of halves, or part of a head. So it is tried."""
    shapes = ((1, 2, 3, _TRIED), (1, 1, 3, _TRIED), (1, 3, _TRIED), (1, 3, _TRIED))
    tried = [
        torch.linspace(-1, 1 + at, shape.numel(), device=device).view(shape).to(dtype)
        for at, shape in enumerate(map(torch.Size, shapes))
    ]
    try:
        wanted = rotation(*tried)
    except (TypeError, RuntimeError, IndexError, ValueError):  # it takes other arguments
        return False
    return all(map(is_rounding_apart, _fused(rotation, *tried), wanted))


def _fused(
    rotation: Rotation, query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor, *others: Any, **named: Any
) -> tuple[Tensor, Tensor]:
    """query, key: [texts, heads, tokens, head_dim]; cosine, sine: [texts, tokens, head_dim]. Else not."""
    texts, _, tokens, head_dim = query.shape
    of_all_places = all(part.shape == (texts, tokens, head_dim) for part in (cosine, sine))
    if others or named or not of_all_places or key.shape[::2] != (texts, tokens) or key.shape[3] != head_dim:
        return rotation(query, key, cosine, sine, *others, **named)
    # As the product before it has left them: of each token all heads, one after the other.
    heads_last = [part.transpose(1, 2).flatten(0, 1).contiguous() for part in (query, key)]
    rotated = rotate(*heads_last, cosine.flatten(0, 1), sine.flatten(0, 1))
    query, key = (part.unflatten(0, (texts, tokens)).transpose(1, 2) for part in rotated)
    return query, key
