"""Keys and values of a text in memory that stays where it is, so that a card can repeat a recorded step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from qlora_kernels import keep_token
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

_PLAIN_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)


@dataclass(eq=False)
class Place:
    """Where the next tokens go. All layers of a cache look at the same one.

    tokens:   that are there already, of the longest text; counts where several come at once
    capacity: that each text has room for
    at:       int64 [texts] on the device: the place of each text's single token among all places, read by a
              recorded step; None: not now
    """

    tokens: int
    capacity: int
    at: Tensor | None = None


class FixedCache(Cache):  # type: ignore[misc]
    """What transformers' attention layers hand their keys and values to."""

    def __init__(self, layers: int, capacity: int, texts: int = 1) -> None:
        self.place = Place(0, capacity)
        self.texts = texts
        super().__init__(layers=[_FixedLayer(self.place, texts) for _ in range(layers)])

    def beginning_of(self, text: int) -> FixedCache:
        """Of one of the texts, in the same memory, until this cache grows: to be filled with a prompt."""
        part = FixedCache(0, self.place.capacity)
        part.layers = [_PartOfLayer(part.place, layer, text) for layer in self.layers]
        return part

    def grow(self, capacity: int) -> None:
        """Other memory, with more room; what was recorded on the old is worth nothing then."""
        for layer in self.layers:
            layer.grow(capacity)
        self.place.capacity = capacity


class _FixedLayer(CacheLayerMixin):  # type: ignore[misc]
    """keys, values: [texts, capacity, kv_heads, head_dim]"""

    is_sliding = False  # a window is the attention's affair: all tokens are kept

    def __init__(self, place: Place, texts: int) -> None:
        super().__init__()
        self._place = place
        self._texts = texts

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            states.new_zeros(self._texts, self._place.capacity, states.shape[1], states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """key_states, value_states: [texts, kv_heads, new, head_dim]; returns all that is looked back at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place, both = self._place, ((self.keys, key_states), (self.values, value_states))
        if place.at is not None:
            caches = (part.flatten(2).flatten(0, 1) for part in (self.keys, self.values))
            keep_token(*caches, *(new.transpose(1, 2).flatten(1) for _, new in both), place.at)
            return self.keys.transpose(1, 2), self.values.transpose(1, 2)
        end = place.tokens + key_states.shape[2]
        for kept, new in both:
            kept[:, place.tokens : end] = new.transpose(1, 2)
        return self.keys[:, :end].transpose(1, 2), self.values[:, :end].transpose(1, 2)

    def grow(self, capacity: int) -> None:
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(len(old), capacity, *old.shape[2:])
            new[:, : self._place.tokens] = old[:, : self._place.tokens]
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._place.tokens + query_length, 0

    def get_seq_length(self) -> int:
        return self._place.tokens

    def get_max_length(self) -> int:
        return self._place.capacity


class _PartOfLayer(_FixedLayer):
    """A text's part of what another layer keeps."""

    def __init__(self, place: Place, whole: _FixedLayer, text: int) -> None:
        super().__init__(place, 1)
        self._whole, self._text = whole, text

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        if not self._whole.is_initialized:
            self._whole.lazy_initialization(key_states, value_states)
        part = slice(self._text, self._text + 1)
        self.keys, self.values = self._whole.keys[part], self._whole.values[part]
        self.is_initialized = True


def takes_fixed_cache(model: PreTrainedModel) -> bool:
    """Whether each layer looks back at keys and values alone, with scores that nothing bends."""
    layers = DynamicCache(config=model.config).layers
    plain = all(type(layer) in _PLAIN_LAYERS for layer in layers)
    return plain and not getattr(model.config, "attn_logit_softcapping", None)


@dataclass(frozen=True, eq=False)
class Looking:
    """What a recorded step sees of a `FixedCache`: all that is there, the new token's place included.

    used:   int32 [texts] on the device
    starts: int32 [2, texts + 1] on the device, see `qlora_kernels.cached_attention`
    """

    used: Tensor
    starts: Tensor

    def as_mask(self) -> Tensor:
        """As `attention.Segments.as_mask`."""
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.used.device)
        mask.looking = self  # type: ignore[attr-defined]
        return mask
