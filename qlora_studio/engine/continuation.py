"""A text that grows token by token: what was computed of its earlier tokens is kept."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class Continuation:
    """One text in the model's memory, by the adapter that is on."""

    def __init__(self, model: PreTrainedModel) -> None:
        model.eval()
        self._model = model
        self._past = {_cache_argument(model): DynamicCache(config=model.config)}
        self.tokens = 0

    @torch.no_grad()
    def extend(self, ids: Sequence[int]) -> Tensor:
        """float32 [vocabulary]: the logits of what follows the text, `ids` now being its end."""
        device = self._model.device
        positions = torch.arange(self.tokens, self.tokens + len(ids), device=device)[None]
        output = self._model(
            input_ids=torch.tensor([list(ids)], device=device),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **self._past,
        )
        self.tokens += len(ids)
        logits: Tensor = output.logits[0, -1].float()
        return logits


def _cache_argument(model: PreTrainedModel) -> str:
    """What this version of transformers calls the cache of keys and values."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
