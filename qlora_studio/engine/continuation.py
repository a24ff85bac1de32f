"""A text that grows token by token: what was computed of its earlier tokens is kept."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from qlora_studio.engine.attention import LeftPadding, flash_takes_heads_of
from qlora_studio.engine.fixed_cache import FixedCache, takes_fixed_cache
from qlora_studio.engine.recorded_step import RecordedStep

_MORE_TOKENS = 512  # that a cache has room for at first; then it doubles


class Continuation:
    """A text in the model's memory, or several, by the adapter that is on."""

    def __init__(self, model: PreTrainedModel) -> None:
        model.eval()
        self._model = model
        self._cache_argument = _cache_argument(model)
        self._cache: Cache = DynamicCache(config=model.config)
        self._step: RecordedStep | None = None
        self._padding: LeftPadding | None = None
        self.tokens = 0  # of the longest text

    def extend(self, ids: Sequence[int]) -> Tensor:
        """float32 [vocabulary]: the logits of what follows the text, `ids` now being its end."""
        if not self.tokens and _repeats_steps(self._model):
            self._cache = FixedCache(self._model.config.num_hidden_layers, _room_for(len(ids)))
        if isinstance(self._cache, FixedCache):
            return self._extend_fixed(self._cache, ids)
        return self.extend_each([ids])[0]

    @torch.no_grad()
    def _extend_fixed(self, cache: FixedCache, ids: Sequence[int]) -> Tensor:
        """As `extend`; single tokens by a step that a card repeats."""
        if self.tokens + len(ids) > cache.place.capacity:
            cache.grow(_room_for(2 * self.tokens + len(ids)))
            if self._step is not None:
                self._step.forget()
        if len(ids) > 1 or not self.tokens:
            logits = self.extend_each([ids])[0]
            cache.place.tokens = self.tokens
            return logits
        self._step = self._step or RecordedStep(self._model, cache, self._cache_argument)
        self.tokens += 1
        return self._step.logits_after(ids[0])

    @torch.no_grad()
    def extend_each(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """float32 [texts, vocabulary]: as `extend`. The texts' beginnings may differ in length."""
        device = self._model.device
        length = max(map(len, ids))
        before = [length - len(row) for row in ids]
        positions = torch.arange(self.tokens, self.tokens + length, device=device)[None]
        self.tokens += length
        if any(before):
            assert self.tokens == length, "only beginnings may differ in length"
            self._padding = LeftPadding(torch.tensor(before, device=device), length)
        looks: dict[str, Tensor] = {}
        if self._padding is not None:
            self._padding = replace(self._padding, tokens=self.tokens)
            looks["attention_mask"] = self._padding.as_mask()
            positions = (positions - self._padding.before[:, None]).clamp(min=0)
        output = self._model(
            input_ids=torch.tensor([[0] * (length - len(row)) + list(row) for row in ids], device=device),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **looks,
            **{self._cache_argument: self._cache},
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _repeats_steps(model: PreTrainedModel) -> bool:
    """On a card, where Python takes longer to start a step's kernels than the card to run them."""
    return flash_takes_heads_of(model, model.dtype, model.device) and takes_fixed_cache(model)


def _room_for(tokens: int) -> int:
    """Places of a cache that has these tokens and is to have some more."""
    return -(-(tokens + _MORE_TOKENS) // _MORE_TOKENS) * _MORE_TOKENS


def _cache_argument(model: PreTrainedModel) -> str:
    """What this version of transformers calls the cache of keys and values."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
