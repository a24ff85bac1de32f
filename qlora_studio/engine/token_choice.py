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
        """logits: float32 [vocabulary]; reply: the tokens chosen so far.

        source: top-p, arXiv:1904.09751; min-p, arXiv:2407.01082, both after the temperature
        Raises: StudioError.
        """
        sampling = self._sampling
        if sampling.repeat_penalty != 1.0 and reply:
            logits = _less_of(logits, reply, sampling.repeat_penalty)
        if sampling.greedy or sampling.temperature < _COLDEST:
            return _read(*logits.max(dim=-1))
        scores, tokens = _likeliest(logits, sampling.top_k)
        probabilities = torch.softmax(scores / sampling.temperature, dim=-1)
        before = probabilities.cumsum(-1) - probabilities  # of all that are likelier
        likely = (before < sampling.top_p) & (probabilities >= sampling.min_p * probabilities[0])
        kept = torch.where(likely, probabilities, 0.0)
        kept[0] = probabilities[0].nan_to_num(1.0)  # drawing among NaN would end the process on a card
        return _read(scores[0], tokens[torch.multinomial(kept, 1, generator=self._random)][0])


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


def _read(best: Tensor, token: Tensor) -> int:
    """The token. `best` is the likeliest one's score: NaN comes out first in every order.

    Both are read from the card at once: each reading waits until it has nothing more to do.
    """
    score, number = torch.stack((best.double(), token.double())).tolist()
    if not math.isfinite(score):
        raise StudioError(
            "The model's answer is no number.",
            hint="Its numbers overflow in float16: load it with compute dtype bfloat16 or float32.",
        )
    return int(number)


def _check(sampling: Sampling) -> None:
    limits = {
        "temperature": (sampling.temperature, 0.0, 100.0),
        "top_p": (sampling.top_p, 0.0, 1.0),
        "min_p": (sampling.min_p, 0.0, 1.0),
        "top_k": (sampling.top_k, 0, 10_000_000),
        "repeat_penalty": (sampling.repeat_penalty, 0.01, 100.0),
        "max_tokens": (sampling.max_tokens, 1, 10_000_000),
        "seed": (sampling.seed, 0, 2**63 - 1),
    }
    for name, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise StudioError(f"{name} is {value}; it must be between {least:,} and {most:,}.")
