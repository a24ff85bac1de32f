"""What writes a reply token by token: products of a few rows, and attention of one token over a cache.

Without a card the plain torch is tested, on one the CUDA kernels.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from qlora_kernels import cached_attention, linear_4bit, linears_4bit, low_rank_product, quantize_4bit
from torch.nn.functional import linear, scaled_dot_product_attention

HEADS, KV_HEADS, HEAD_DIM, CAPACITY = 8, 2, 64, 96
BF16, FP16 = torch.bfloat16, torch.float16
ROUNDING = {BF16: 2**-8, FP16: 2**-11}


@pytest.fixture(autouse=True)
def _on_the_card_where_there_is_one():
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield


@cache
def quantized_weight(shape, quant_type, block_size, double_quant):
    return quantize_4bit(torch.randn(shape), quant_type, block_size, double_quant)


@pytest.mark.parametrize("tokens", [1, 3, 4, 5])
@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("shape", [(200, 2176), (9000, 128)])
@pytest.mark.parametrize(
    ("quant_type", "double_quant", "block_size"), [("nf4", True, 64), ("nf4", False, 128), ("fp4", True, 64)]
)
def test_a_product_of_few_rows_is_that_of_the_dequantized_weight(
    tokens, dtype, shape, quant_type, double_quant, block_size
):
    quantized = quantized_weight(shape, quant_type, block_size, double_quant)
    x, bias, low_rank = torch.randn(1, tokens, shape[1]), torch.randn(shape[0]), torch.randn(1, tokens, 24)
    x, bias, low_rank = x.to(dtype), bias.to(dtype), low_rank.to(dtype)
    lora_b = torch.randn(shape[0], 24)
    with torch.no_grad():
        found = linear_4bit(
            x, quantized.tensors, block_size, quant_type, quantized.shape, bias, low_rank, lora_b
        )
        exact = linear(x.double(), quantized.dequantize(torch.float32).double(), bias.double())
        exact += linear(low_rank.double(), lora_b.double())
    # The weight's values, the base's part and the sum are rounded to dtype, each by half of this at most.
    assert (found.double() - exact).norm() <= 2 * ROUNDING[dtype] * exact.norm()


def several_products(tokens, dtype, ranks, double_quant=True):
    """Arguments of `linears_4bit`: three weights; one has a bias, those with a rank an adapter."""
    shapes = [(200, 2176), (72, 2176), (2000, 2176)]
    quantized = [quantized_weight(shape, "nf4", 64, double_quant) for shape in shapes]
    return (
        torch.randn(1, tokens, 2176).to(dtype),
        [tensor for one in quantized for tensor in one.tensors],
        64,
        "nf4",
        [shape[0] for shape in shapes],
        [None, torch.randn(72).to(dtype), None],
        [torch.randn(rank, 2176) / 47 if rank else None for rank in ranks],
        [torch.randn(shape[0], rank) if rank else None for shape, rank in zip(shapes, ranks, strict=True)],
        [0.5, 2.0, 1.0],
    ), quantized


@pytest.mark.parametrize("tokens", [1, 2, 4, 5])
@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize(
    ("ranks", "double_quant"), [((8, 24, 100), True), ((0, 0, 0), True), ((0, 64, 0), False)]
)
def test_products_with_several_weights_are_those_with_each(tokens, dtype, ranks, double_quant):
    arguments, quantized = several_products(tokens, dtype, ranks, double_quant)
    x, *_, biases, lora_a, lora_b, scalings = arguments
    with torch.no_grad():
        found = linears_4bit(*arguments)
    for at, one in enumerate(quantized):
        exact = linear(x.double(), one.dequantize(torch.float32).double())
        if biases[at] is not None:
            exact += biases[at].double()
        if lora_a[at] is not None:
            exact += scalings[at] * linear(linear(x.double(), lora_a[at].double()), lora_b[at].double())
        # As for one product, and the adapter's low rank is rounded too.
        assert (found[at].double() - exact).norm() <= 3 * ROUNDING[dtype] * exact.norm()


def own_adapters(tokens, dtype, double_quant=True):
    """As `several_products`, each row by an adapter of its own; the first has none, ranks differ."""
    (x, weights, *rest, biases, _, _, _), quantized = several_products(tokens, dtype, (0, 0, 0), double_quant)
    ranks = [
        [0, 8, 100, 24][(row + 2 * (at == 1)) % 4 if row else 0] for at in range(3) for row in range(tokens)
    ]
    lora_a = [torch.randn(rank, 2176) / 47 if rank else None for rank in ranks]
    outs = [one.shape[0] for one in quantized for _ in range(tokens)]
    lora_b = [torch.randn(out, rank) if rank else None for out, rank in zip(outs, ranks, strict=True)]
    scalings = [0.5 + 0.25 * at for at in range(len(ranks))]
    return (x, weights, *rest, biases, lora_a, lora_b, scalings), quantized


@pytest.mark.parametrize("tokens", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("double_quant", [True, False])
def test_each_row_may_have_an_adapter_of_its_own(tokens, dtype, double_quant):
    arguments, quantized = own_adapters(tokens, dtype, double_quant)
    x, *_, biases, lora_a, lora_b, scalings = arguments
    with torch.no_grad():
        found = [linears_4bit(*arguments) for _ in range(2)]  # what a kernel leaves behind serves the next
    for at, one in enumerate(quantized):
        exact = linear(x.double(), one.dequantize(torch.float32).double())
        if biases[at] is not None:
            exact += biases[at].double()
        for row in range(tokens):
            a, b, scaling = (part[at * tokens + row] for part in (lora_a, lora_b, scalings))
            if a is not None:
                exact[:, row] += scaling * linear(linear(x[:, row].double(), a.double()), b.double())
        for each in found:
            difference = (each[at].double() - exact).norm(dim=-1)
            assert (difference <= 3 * ROUNDING[dtype] * exact.norm(dim=-1)).all()


def test_opcheck_of_products_with_several_weights():
    torch.library.opcheck(linears_4bit, own_adapters(2, BF16)[0])
    torch.library.opcheck(linears_4bit, several_products(2, BF16, (8, 0, 8))[0])


@pytest.mark.parametrize("tokens", [1, 4, 5])
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_a_low_rank_product_is_that_of_plain_torch(tokens, dtype):
    x, lora_a = torch.randn(1, tokens, 520).to(dtype), torch.randn(24, 520)
    exact = 0.5 * linear(x.double(), lora_a.double())
    found = low_rank_product(x, lora_a, 0.5)
    assert (found.double() - exact).norm() <= ROUNDING[dtype] * exact.norm()


def test_opcheck_of_the_low_rank_product():
    torch.library.opcheck(low_rank_product, (torch.randn(1, 2, 64).to(BF16), torch.randn(8, 64), 0.5))


def cache_and_query(used, head_dim=HEAD_DIM, capacity=CAPACITY):
    query = torch.randn(len(used), HEADS, head_dim).to(BF16)
    key, value = (torch.randn(len(used), capacity, KV_HEADS, head_dim).to(BF16) for _ in range(2))
    starts = torch.arange(len(used) + 1, dtype=torch.int32)
    starts = torch.stack((starts, starts * capacity))
    return query, key, value, torch.tensor(used, dtype=torch.int32), starts


@pytest.mark.parametrize("window", [0, 7])
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
@pytest.mark.parametrize(
    ("used", "capacity"), [((1,), 96), ((5,), 96), ((96,), 96), ((40, 3), 96), ((1900, 1), 2048)]
)
def test_a_token_sees_what_is_used_of_a_cache_and_nothing_behind_it(used, capacity, head_dim, window):
    query, key, value, *places = cache_and_query(used, head_dim, capacity)
    for _ in range(2):  # what a kernel leaves behind serves the next
        found = cached_attention(query, key, value, *places, 0.125, window)
    for text, count in enumerate(used):
        seen = slice(count - min(window or count, count), count)
        alone = (part[text, seen].transpose(0, 1).float() for part in (key, value))
        wanted = scaled_dot_product_attention(
            query[text][:, None].float(), *alone, scale=0.125, enable_gqa=True
        )
        torch.testing.assert_close(found[text].float(), wanted[:, 0], rtol=0.01, atol=0.01)


def test_opcheck_of_attention_over_a_cache():
    torch.library.opcheck(cached_attention, (*cache_and_query((5, 40)), 0.125, 0))
