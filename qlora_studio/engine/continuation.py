"""A text that grows token by token: what was computed of its earlier tokens is kept."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class Continuation:
    """A text in the model's memory, or several of one length, by the adapter that is on."""

    def __init__(self, model: PreTrainedModel) -> None:
        model.eval()
        self._model = model
        self._past = {_cache_argument(model): DynamicCache(config=model.config)}
        self.tokens = 0

    def extend(self, ids: Sequence[int]) -> Tensor:
        """float32 [vocabulary]: the logits of what follows the text, `ids` now being its end."""
        return self.extend_each([ids])[0]

    @torch.no_grad()
    def extend_each(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """float32 [texts, vocabulary]: as `extend`, equally many ids for each text."""
        device = self._model.device
        length = len(ids[0])
        output = self._model(
            input_ids=torch.tensor([list(row) for row in ids], device=device),
            position_ids=torch.arange(self.tokens, self.tokens + length, device=device)[None],
            use_cache=True,
            logits_to_keep=1,
            **self._past,
        )
        self.tokens += length
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _cache_argument(model: PreTrainedModel) -> str:
    """What this version of transformers calls the cache of keys and values."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
