"""A text that grows token by token: what was computed of its earlier tokens is kept."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from qlora_studio.engine.attention import LeftPadding


class Continuation:
    """A text in the model's memory, or several, by the adapter that is on."""

    def __init__(self, model: PreTrainedModel) -> None:
        model.eval()
        self._model = model
        self._past = {_cache_argument(model): DynamicCache(config=model.config)}
        self._padding: LeftPadding | None = None
        self.tokens = 0  # of the longest text

    def extend(self, ids: Sequence[int]) -> Tensor:
        """float32 [vocabulary]: the logits of what follows the text, `ids` now being its end."""
        return self.extend_each([ids])[0]

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
            **self._past,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _cache_argument(model: PreTrainedModel) -> str:
    """What this version of transformers calls the cache of keys and values."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
