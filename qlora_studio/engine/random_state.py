"""Where every source of randomness stands: a resumed run draws what an unbroken one would have (R3)."""

from __future__ import annotations

import base64
import random

import msgspec
import numpy as np
import torch
from torch import Tensor


class RandomState(msgspec.Struct, frozen=True, kw_only=True):
    """Base64 of each generator's bytes; empty where there is none."""

    torch_cpu: str
    torch_cuda: str = ""
    noise: str = ""  # of NEFTune
    numpy: str
    numpy_position: tuple[int, int, float]
    python: tuple[int, tuple[int, ...], float | None]


def take_random_state(noise: torch.Generator | None) -> RandomState:
    """As it is now."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, next_gauss = random.getstate()
    return RandomState(
        torch_cpu=_text(torch.get_rng_state()),
        torch_cuda=_text(torch.cuda.get_rng_state()) if torch.cuda.is_available() else "",
        noise=_text(noise.get_state()) if noise is not None else "",
        numpy=base64.b64encode(np.asarray(keys, "<u4").tobytes()).decode(),
        numpy_position=(int(position), int(has_gauss), float(gauss)),
        python=(version, internal, next_gauss),
    )


def put_random_state(state: RandomState, noise: torch.Generator | None) -> None:
    """Back to where it was."""
    torch.set_rng_state(_bytes(state.torch_cpu))
    if state.torch_cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(state.torch_cuda))
    if state.noise and noise is not None:
        noise.set_state(_bytes(state.noise))
    keys = np.frombuffer(base64.b64decode(state.numpy), "<u4")
    np.random.set_state(("MT19937", keys, *state.numpy_position))
    random.setstate(state.python)


def seed_everything(seed: int) -> None:
    """Each generator from the run's seed."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _text(state: Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
