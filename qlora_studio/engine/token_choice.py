"""Chooses the next token of a reply: the likeliest, or by lot among the likeliest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Sampling

_PARTS = 64  # in which a card looks for the likeliest token
_COLDEST = 1e-3  # below it nothing but the likeliest token is left


class TokenChoice:
    """Draws with randomness of its own: the same seed chooses the same tokens, whatever ran before."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        """Raises: StudioError naming the setting that can't be."""
        _check(sampling)
        self._sampling = sampling
        self._random = torch.Generator(device).manual_seed(sampling.seed)

    @property
    def reads_reply(self) -> bool:
        """Whether what the reply holds already changes a choice: the token before must be read first."""
        return self._sampling.repeat_penalty != 1.0

    def choose(self, logits: Tensor, reply: Sequence[int]) -> int:
        """logits: float32 [vocabulary]; reply: the tokens chosen so far.

        source: top-p, arXiv:1904.09751; min-p, arXiv:2407.01082, both after the temperature
        Raises: StudioError.
        """
        return self.begin(logits, reply).read()

    def begin(self, logits: Tensor, reply: Sequence[int]) -> Chosen:
        """As `choose`, but a card isn't waited for."""
        sampling = self._sampling
        if self.reads_reply and reply:
            logits = _less_of(logits, reply, sampling.repeat_penalty)
        if sampling.greedy or sampling.temperature < _COLDEST:
            return Chosen(*_likeliest_of_all(logits))
        scores, tokens = _likeliest(logits, sampling.top_k)
        probabilities = torch.softmax(scores / sampling.temperature, dim=-1)
        before = probabilities.cumsum(-1) - probabilities  # of all that are likelier
        likely = (before < sampling.top_p) & (probabilities >= sampling.min_p * probabilities[0])
        kept = torch.where(likely, probabilities, 0.0)
        kept[0] = probabilities[0].nan_to_num(1.0)  # drawing among NaN would end the process on a card
        drawn = torch.multinomial(kept, 1, generator=self._random)
        return Chosen(scores[0], tokens[drawn][0])


class Chosen:
    """A token that a card may still be choosing.

    token: int64 [], on the device
    """

    def __init__(self, best: Tensor, token: Tensor) -> None:
        """best: the likeliest one's score. NaN comes out first in every order."""
        self.token = token
        both = torch.stack((best.double(), token.double()))
        self._read = torch.empty(2, dtype=torch.float64, pin_memory=both.is_cuda)
        self._read.copy_(both, non_blocking=True)
        self._is_there: torch.cuda.Event | None = None
        if both.is_cuda:
            self._is_there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._is_there.record()

    def read(self) -> int:
        """Waits for this choice, not for what the card was given to do after it. Raises: StudioError."""
        if self._is_there is not None:
            self._is_there.synchronize()
        score, number = self._read.tolist()
        if not math.isfinite(score):
            raise StudioError(
                "The model's answer is no number.",
                hint="Its numbers overflow in float16: load it with compute dtype bfloat16 or float32.",
            )
        return int(number)


def _likeliest_of_all(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Score and token."""
    if not logits.is_cuda or len(logits) % _PARTS:
        best, token = logits.max(dim=-1)
        return best, token
    # A card goes through one row with a single block of threads: 28 us for 128,256 logits on an H100.
    best_of_each, places = logits.view(_PARTS, -1).max(dim=-1)
    best, part = best_of_each.max(dim=-1)
    return best, part * (len(logits) // _PARTS) + places.gather(0, part[None])[0]


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
