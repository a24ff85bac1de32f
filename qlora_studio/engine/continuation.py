"""A text that grows token by token: what was computed of its earlier tokens is kept."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from qlora_kernels import MOST_ROWS
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.attention import LeftPadding, flash_takes_heads_of
from qlora_studio.engine.fixed_cache import FixedCache, takes_fixed_cache
from qlora_studio.engine.fused_norms import FusedNorms
from qlora_studio.engine.fused_rotation import FusedRotation
from qlora_studio.engine.recorded_step import RecordedStep
from qlora_studio.engine.source_continuation import SourceContinuation

_MORE_TOKENS = 512  # that a cache has room for at first; then it doubles
_MOST_STEPS = 4  # that are kept: a base and three adapters may answer the same message


class KeptSteps:
    """What a text leaves to the next one: its cache's memory, and what was recorded on it, by each adapter.

    For one text at a time, or some that go on side by side. It takes memory until it is asked to `forget`.
    """

    def __init__(self) -> None:
        self._model: PreTrainedModel | None = None
        self._cache: FixedCache | None = None
        self._steps: dict[object, RecordedStep] = {}
        self._beside: tuple[object, RecordedStep, FixedCache] | None = None
        self._fused: tuple[PreTrainedModel, FusedNorms, FusedRotation] | None = None

    def forget(self) -> None:
        self._model, self._cache, self._steps = None, None, {}
        self._beside = self._fused = None

    @contextmanager
    def fused(self, model: PreTrainedModel) -> Iterator[None]:
        """Inside, many tokens pass the model in fewer kernels. Not for learning."""
        if self._fused is None or self._fused[0] is not model:
            self._fused = model, FusedNorms(model), FusedRotation(model)
        with self._fused[1].in_use(), self._fused[2].in_use():
            yield

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

    def step_beside(
        self, model: PreTrainedModel, adapters: Sequence[str | None], tokens: int
    ) -> tuple[RecordedStep, FixedCache]:
        """For texts by these adapters, with room for so many tokens of each, and some more."""
        key = tuple(adapters), _what_writes(model)
        if self._beside is None or self._beside[0] != key or self._beside[2].place.capacity <= tokens:
            self._beside = None  # its memory first
            cache = FixedCache(model.config.num_hidden_layers, _room_for(tokens), len(adapters))
            self._beside = key, RecordedStep(model, cache, _cache_argument(model)), cache
        return self._beside[1:]

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
        with self._kept.fused(self._model):
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


def continuation_of(
    model: PreTrainedModel, kept: KeptSteps | None = None
) -> Continuation | SourceContinuation:
    """Of a text, or several, as the model's kind goes on with them."""
    if model.config.is_encoder_decoder:
        return SourceContinuation(model, _cache_argument(model))
    return Continuation(model, kept)


class SideBySide:
    """Texts that go on at once, each by the base or by an adapter: a weight is read once for all of them."""

    def __init__(self, adapted: AdaptedModel, adapters: Sequence[str | None], kept: KeptSteps) -> None:
        """Of the adapters all are in memory, and `can_go_on_side_by_side`."""
        self._adapted = adapted
        self._adapters = tuple(adapters)
        self._kept = kept
        self._tokens = [0] * len(adapters)  # of each text

    def begin(self, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        """float32 [vocabulary] of each: the logits of what follows it."""
        model = self._adapted.causal_lm.eval()
        self._adapted.use(None)
        self._step, self._cache = self._kept.step_beside(model, self._adapters, max(map(len, prompts)))
        logits = []
        for text, (prompt, adapter) in enumerate(zip(prompts, self._adapters, strict=True)):
            alone = Continuation(model)
            alone._cache = self._cache.beginning_of(text)
            # peft's way of switching goes through all modules several times.
            with self._adapted.standing_side_by_side([adapter]), self._kept.fused(model):
                logits.append(alone.extend_each([prompt])[0])
            self._tokens[text] = len(prompt)
        return logits

    @torch.no_grad()
    def extend_by(self, tokens: Sequence[Tensor], go_on: Sequence[bool]) -> Tensor:
        """float32 [texts, vocabulary], until the next call. What doesn't go on is written over by the next.

        tokens: of each, int64 [] on the device, where they may still be in the making
        """
        longest = max(self._tokens)
        place = self._cache.place
        place.tokens = longest
        if longest >= place.capacity:
            self._cache.grow(_room_for(2 * longest))
            self._step.forget()
        if self._step.is_recorded:  # then no layer is asked
            logits = self._step.logits_after_each(tokens, self._tokens)
        else:
            with self._adapted.standing_side_by_side(self._adapters):
                logits = self._step.logits_after_each(tokens, self._tokens)
        self._tokens = [count + going for count, going in zip(self._tokens, go_on, strict=True)]
        return logits


def can_go_on_side_by_side(adapted: AdaptedModel, adapters: Sequence[str | None]) -> bool:
    """Whether `SideBySide` takes them, and is faster than one after the other: on a card."""
    return (
        1 < len(adapters) <= MOST_ROWS
        and _repeats_steps(adapted.causal_lm)
        and adapted.may_stand_side_by_side([name for name in adapters if name is not None])
    )


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
    if model.config.is_encoder_decoder:
        return False
    return flash_takes_heads_of(model, model.dtype, model.device) and takes_fixed_cache(model)


def _room_for(tokens: int) -> int:
    """Places of a cache that has these tokens and is to have some more."""
    return -(-(tokens + _MORE_TOKENS) // _MORE_TOKENS) * _MORE_TOKENS


def _cache_argument(model: PreTrainedModel) -> str:
    """What this version of transformers calls the cache of keys and values."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
