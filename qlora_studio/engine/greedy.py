"""The most likely continuation of a prompt, token by token: how samples are answered at a checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence

import torch
from transformers import DynamicCache, PreTrainedModel


@torch.no_grad()
def continue_greedily(
    model: PreTrainedModel, prompt: Sequence[int], max_tokens: int, stop_ids: Collection[int]
) -> list[int]:
    """Token ids after `prompt`, without the one that ends the reply."""
    model.eval()
    past = {cache_argument(model): DynamicCache(config=model.config)}
    ids = torch.tensor([list(prompt)], device=model.device)
    reply: list[int] = []
    at = 0
    while len(reply) < max_tokens:
        positions = torch.arange(at, at + ids.shape[1], device=model.device)[None]
        output = model(input_ids=ids, position_ids=positions, use_cache=True, logits_to_keep=1, **past)
        at += ids.shape[1]
        token = int(output.logits[0, -1].argmax())
        if token in stop_ids:
            break
        reply.append(token)
        ids = torch.tensor([[token]], device=model.device)
    return reply


def cache_argument(model: PreTrainedModel) -> str:
    """What this version of transformers calls the cache of keys and values."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
