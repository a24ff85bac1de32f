"""What lies between the products of a token: bit for bit what plain torch makes of it, where it rounds alike.

Without a card the plain torch is tested, on one the CUDA kernels.
"""

from __future__ import annotations

import pytest
import torch
from qlora_kernels import gated_silu, keep_token, rms_norm, rotate
from torch.nn.functional import silu

BF16, FP16 = torch.bfloat16, torch.float16
ROUNDING = {BF16: 2**-8, FP16: 2**-11}


@pytest.fixture(autouse=True)
def _on_the_card_where_there_is_one():
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield


def rotation(dtype, texts=3, head_dim=96):
    query, key = (torch.randn(texts, heads, head_dim).to(dtype) for heads in (6, 2))
    angle = torch.rand(texts, head_dim // 2).repeat(1, 2) * 6
    return query, key, angle.cos().to(dtype), angle.sin().to(dtype)


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("shape", [(1, 1, 1000), (3, 4096)])
def test_a_gate_is_silu_times_the_other(dtype, shape):
    gate, up = (torch.randn(shape).to(dtype) * 3 for _ in range(2))
    torch.testing.assert_close(gated_silu(gate, up), silu(gate) * up, rtol=ROUNDING[dtype], atol=0)


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_query_and_key_turn_by_their_place(dtype):
    query, key, cosine, sine = rotation(dtype)
    of_each_head = [part.double()[:, None] for part in (cosine, sine)]
    for found, x in zip(rotate(query, key, cosine, sine), (query, key), strict=True):
        lower, upper = x.double().chunk(2, -1)
        exact = x.double() * of_each_head[0] + torch.cat((-upper, lower), -1) * of_each_head[1]
        # Two products and their sum are rounded.
        assert (found.double() - exact).norm() <= ROUNDING[dtype] * exact.norm()


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("places", [[0], [6], [5, 0, 3]])
def test_tokens_are_kept_at_their_places_and_nowhere_else(dtype, places):
    keys, values = (torch.randn(7, 300).to(dtype) for _ in range(2))
    key, value = (torch.randn(len(places), 300).to(dtype) for _ in range(2))
    wanted = [part.clone() for part in (keys, values)]
    for text, place in enumerate(places):
        wanted[0][place], wanted[1][place] = key[text], value[text]
    keep_token(keys, values, key, value, torch.tensor(places))
    torch.testing.assert_close([keys, values], wanted, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("shape", [(1, 1, 4096), (2, 4104), (1, 16384), (1, 100)])
def test_a_norm_is_that_of_exact_arithmetic(dtype, shape):
    x, weight = torch.randn(shape).to(dtype), torch.rand(shape[-1]).to(dtype)
    exact = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    assert (rms_norm(x, weight, 1e-5).double() - exact).norm() <= ROUNDING[dtype] / 2 * exact.norm()


def test_opcheck_of_what_lies_between_products():
    gate, up = (torch.randn(1, 64).to(BF16) for _ in range(2))
    keys, key = torch.randn(5, 64).to(BF16), torch.randn(1, 64).to(BF16)
    torch.library.opcheck(gated_silu, (gate, up))
    torch.library.opcheck(rotate, rotation(BF16))
    torch.library.opcheck(rms_norm, (gate, key[0], 1e-5))
    torch.library.opcheck(keep_token, (keys, keys.clone(), key, key.clone(), torch.tensor([3])))
