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
_MOST_STEPS = 4  # that are kept: a base and three adapters may answer the same message


class KeptSteps:
    """What a text leaves to the next one: its cache's memory, and what was recorded on it, by each adapter.

    For one text at a time. It takes memory until it is asked to `forget`.
    """

    def __init__(self) -> None:
        self._model: PreTrainedModel | None = None
        self._cache: FixedCache | None = None
        self._steps: dict[object, RecordedStep] = {}

    def forget(self) -> None:
        self._model, self._cache, self._steps = None, None, {}

    def cache_for(self, model: PreTrainedModel, tokens: int) -> FixedCache:
        """An empty one with room for these, and some more."""
        if self._model is not model or self._cache is None or self._cache.place.capacity <= tokens:
            self.forget()
            self._model = model
            self._cache = FixedCache(model.config.num_hidden_layers, _room_for(tokens))
        self._cache.place.tokens = 0
        return self._cache

    def step_for(self, model: PreTrainedModel, cache: FixedCache) -> RecordedStep:
        """By the adapter that is on."""
        key = _what_writes(model)
        step = self._steps.pop(key, None) or RecordedStep(model, cache, _cache_argument(model))
        self._steps[key] = step
        for forgotten in list(self._steps)[:-_MOST_STEPS]:
            del self._steps[forgotten]
        return step

    def cache_has_moved(self) -> None:
        """What was recorded on it is worth nothing."""
        for step in self._steps.values():
            step.forget()


class Continuation:
    """A text in the model's memory, or several, by the adapter that is on."""

    def __init__(self, model: PreTrainedModel, kept: KeptSteps | None = None) -> None:
        """kept: of the texts before this one, where it is the only one that is continued."""
        model.eval()
        self._model = model
        self._kept = kept or KeptSteps()
        self._cache_argument = _cache_argument(model)
        self._cache: Cache = DynamicCache(config=model.config)
        self._step: RecordedStep | None = None
        self._padding: LeftPadding | None = None
        self.tokens = 0  # of the longest text

    def extend(self, ids: Sequence[int]) -> Tensor:
        """float32 [vocabulary]: the logits of what follows the text, `ids` now being its end."""
        if not self.tokens and _repeats_steps(self._model):
            self._cache = self._kept.cache_for(self._model, len(ids))
        if not isinstance(self._cache, FixedCache):
            return self.extend_each([ids])[0]
        if len(ids) == 1 and self.tokens:
            return self._extend_by_one(self._cache, ids[0])
        self._make_room(self._cache, len(ids))
        logits = self.extend_each([ids])[0]
        self._cache.place.tokens = self.tokens
        return logits

    @property
    def runs_ahead(self) -> bool:
        """Whether `extend_by` does, without waiting for the card."""
        return self.tokens > 0 and isinstance(self._cache, FixedCache)

    def extend_by(self, token: Tensor) -> Tensor:
        """As `extend`. token: int64 [], on the device, where it may still be in the making."""
        assert isinstance(self._cache, FixedCache)
        return self._extend_by_one(self._cache, token)

    @torch.no_grad()
    def _extend_by_one(self, cache: FixedCache, token: int | Tensor) -> Tensor:
        """By a step that a card repeats."""
        self._make_room(cache, 1)
        self._step = self._step or self._kept.step_for(self._model, cache)
        self.tokens += 1
        return self._step.logits_after(token)

    def _make_room(self, cache: FixedCache, tokens: int) -> None:
        if self.tokens + tokens > cache.place.capacity:
            cache.grow(_room_for(2 * self.tokens + tokens))
            self._kept.cache_has_moved()

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


def _what_writes(model: PreTrainedModel) -> object:
    """Equal where a recorded step gives what the model would: the same memory, and the same adapters on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapters = tuple(
        (
            layer.disable_adapters,
            tuple(layer.active_adapters),
            tuple(layer.merged_adapters),
            str(vars(layer).get("scaling")),
        )
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer)
    )
    return adapters, tuple((weight.data_ptr(), weight.shape) for weight in model.parameters())


def _repeats_steps(model: PreTrainedModel) -> bool:
    """On a card, where Python takes longer to start a step's kernels than the card to run them."""
    return flash_takes_heads_of(model, model.dtype, model.device) and takes_fixed_cache(model)


def _room_for(tokens: int) -> int:
    """Places of a cache that has these tokens and is to have some more."""
    return -(-(tokens + _MORE_TOKENS) // _MORE_TOKENS) * _MORE_TOKENS


def _cache_argument(model: PreTrainedModel) -> str:
    """What this version of transformers calls the cache of keys and values."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
