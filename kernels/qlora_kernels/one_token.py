"""What a model does to one token between its products: small, but many kernels if each operation is one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import silu

from qlora_kernels.cuda import one_token


@torch.library.custom_op("qlora::gated_silu", mutates_args=())
def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up; the first is rounded before it is multiplied.

    gate, up: dtype, of one shape
    returns:  dtype, of that shape
    source:   arXiv:2002.05202
    """
    if one_token.takes(gate, up):
        return one_token.gated_silu(gate, up)
    return silu(gate) * up


@gated_silu.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:
    return torch.empty_like(gate)


@torch.library.custom_op("qlora::rotate", mutates_args=())
def rotate(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary positions of a token of each text: x cosine + turned(x) sine.

    turned(x) = (-upper half, lower half)

    query:        dtype [texts, heads, head_dim]
    key:          dtype [texts, kv_heads, head_dim]
    cosine, sine: dtype [texts, head_dim]
    returns:      query and key rotated; both products are rounded before they are added
    source:       arXiv:2104.09864
    """
    if one_token.takes(query, key, cosine, sine):
        return one_token.rotate(query, key, cosine, sine)
    rotated_query, rotated_key = (x * cosine[:, None] + _turned(x) * sine[:, None] for x in (query, key))
    return rotated_query, rotated_key


@rotate.register_fake
def _(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key)


def _turned(x: Tensor) -> Tensor:
    lower, upper = x.chunk(2, dim=-1)
    return torch.cat((-upper, lower), dim=-1)


@torch.library.custom_op("qlora::keep_token", mutates_args=("keys", "values"))
def keep_token(keys: Tensor, values: Tensor, key: Tensor, value: Tensor, place: Tensor) -> None:
    """keys[place] = key, and the same of the values, so that a recorded step serves any place.

    keys, values: dtype [places, width], of all texts
    key, value:   dtype [texts, width], of a token of each
    place:        int64 [texts], on the same device
    """
    if key.shape == value.shape and one_token.takes(keys, values, key, value):
        one_token.keep_token(keys, values, key, value, place)
    else:
        keys.index_copy_(0, place, key)
        values.index_copy_(0, place, value)


@keep_token.register_fake
def _(keys: Tensor, values: Tensor, key: Tensor, value: Tensor, place: Tensor) -> None:
    pass


@torch.library.custom_op("qlora::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight, rounded once. Torch's own takes 6 us for one row (H100).

    x:       dtype [..., n]
    weight:  dtype [n]
    returns: dtype [..., n]
    source:  arXiv:1910.07467
    """
    if one_token.takes_norm(x, weight):
        return one_token.rms_norm(x, weight, epsilon)
    return functional.rms_norm(x, weight.shape, weight, epsilon)


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return torch.empty_like(x)
