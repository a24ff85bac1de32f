"""Chooses the next token of a reply: the likeliest, or by lot among the likeliest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Sampling

_COLDEST = 1e-3  # below it nothing but the likeliest token is left


class TokenChoice:
    """Draws with randomness of its own: the same seed chooses the same tokens, whatever ran before."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        """Raises: StudioError naming the setting that can't be."""
        _check(sampling)
        self._sampling = sampling
        self._random = torch.Generator(device).manual_seed(sampling.seed)

    def choose(self, logits: Tensor, reply: Sequence[int]) -> int:
        """logits: float32 [vocabulary]; reply: the tokens chosen so far. Raises: StudioError."""
        sampling = self._sampling
        if sampling.repeat_penalty != 1.0 and reply:
            logits = _less_of(logits, reply, sampling.repeat_penalty)
        if sampling.greedy or sampling.temperature < _COLDEST:
            token = logits.argmax()
            _require_number(logits[token])
            return int(token)
        scores, tokens = _likeliest(logits, sampling.top_k)
        _require_number(scores[0])
        probabilities = torch.softmax(scores / sampling.temperature, dim=-1)
        before = probabilities.cumsum(-1) - probabilities  # of all that are likelier
        kept = torch.where(before < sampling.top_p, probabilities, 0.0)
        kept[0] = probabilities[0]
        return int(tokens[torch.multinomial(kept, 1, generator=self._random)])


def _likeliest(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Scores and tokens, the likeliest first; top_k = 0: all."""
    if 0 < top_k < len(logits):
        scores, tokens = logits.topk(top_k)
    else:
        scores, tokens = logits.sort(descending=True)
    return scores, tokens


def _less_of(logits: Tensor, reply: Sequence[int], penalty: float) -> Tensor:
    """Makes what the reply already holds less likely (CTRL, arXiv:1909.05858, section 4.1)."""
    logits = logits.clone()
    seen = torch.tensor(sorted(set(reply)), device=logits.device)
    scores = logits[seen]
    logits[seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits


def _require_number(score: Tensor) -> None:
    """NaN comes out first in every order; drawing among NaN would end the process on a card."""
    if not math.isfinite(float(score)):
        raise StudioError(
            "The model's answer is no number.",
            hint="Its numbers overflow in float16: load it with compute dtype bfloat16 or float32.",
        )


def _check(sampling: Sampling) -> None:
    limits = {
        "temperature": (sampling.temperature, 0.0, 100.0),
        "top_p": (sampling.top_p, 0.0, 1.0),
        "top_k": (sampling.top_k, 0, 10_000_000),
        "repeat_penalty": (sampling.repeat_penalty, 0.01, 100.0),
        "max_tokens": (sampling.max_tokens, 1, 10_000_000),
        "seed": (sampling.seed, 0, 2**63 - 1),
    }
    for name, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise StudioError(f"{name} is {value}; it must be between {least:,} and {most:,}.")
