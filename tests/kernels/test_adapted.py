"""Products that learn, several weights at once: as `linear_4bit` gives them, with the same gradients."""

from __future__ import annotations

import pytest
import torch
from qlora_kernels import adapted_4bit, linear_4bit, quantize_4bit
from qlora_kernels.adapted import adapted_4bit_grad_input, low_rank_of
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

OUT, RANKS = (128, 64), (8, 4)


@pytest.fixture(autouse=True)
def _on_the_card_where_there_is_one():
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield


def arguments(dtype=torch.float32, biased=(True, False)):
    """Two weights with the same input."""
    weights = [quantize_4bit(torch.randn(rows, 64)) for rows in OUT]
    x = torch.randn(2, 3, 64, dtype=dtype, requires_grad=True)
    lora_a = torch.randn(sum(RANKS), 64, dtype=dtype, requires_grad=True)
    lora_b = [
        torch.randn(rows, r, dtype=dtype, requires_grad=True) for rows, r in zip(OUT, RANKS, strict=True)
    ]
    tensors = [tensor for weight in weights for tensor in weight.tensors]
    biases = [torch.randn(rows, dtype=dtype) if has else None for rows, has in zip(OUT, biased, strict=True)]
    return x, lora_a, low_rank_of(x, lora_a), tensors, 64, "nf4", list(OUT), biases, lora_b


def each_alone(x, lora_a, _, tensors, block_size, quant_type, out_features, biases, lora_b):
    halves = tensors[:5], tensors[5:]
    return [
        linear_4bit(x, weight, block_size, quant_type, [rows, 64], bias, linear(x, a), b)
        for weight, rows, bias, a, b in zip(
            halves, out_features, biases, lora_a.split(RANKS), lora_b, strict=True
        )
    ]


def gradients_of(products, given):
    torch.manual_seed(1)
    total = sum((product * torch.randn_like(product)).sum() for product in products)
    return torch.autograd.grad(total, [given[0], given[1], *given[-1]])


def test_opcheck():
    torch.library.opcheck(adapted_4bit, arguments())


def test_opcheck_of_the_gradient_of_the_input():
    grads = [torch.randn(2, 3, rows) for rows in OUT]
    _, lora_a, low_rank, tensors, *_ = arguments()
    given = grads, torch.randn_like(low_rank), lora_a.detach(), tensors, 64, "nf4"
    torch.library.opcheck(adapted_4bit_grad_input, given)


@pytest.mark.parametrize("biased", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6)])
def test_products_and_gradients_are_those_of_each_weight_alone(dtype, apart, biased):
    given = arguments(dtype, biased)
    ours, theirs = adapted_4bit(*given), each_alone(*given)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= apart * other.norm()
    for one, other in zip(gradients_of(ours, given), gradients_of(theirs, given), strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= apart * other.norm()


def test_an_output_that_nothing_is_learned_from_has_no_gradient_of_its_own():
    given = arguments()
    first, _ = adapted_4bit(*given)
    alone, _ = each_alone(*given)
    wanted = [given[0], given[1], given[-1][0]]
    ours, theirs = (torch.autograd.grad(made.square().sum(), wanted) for made in (first, alone))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_no_weight_is_saved_for_backward():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        adapted_4bit(*arguments())
    assert not {(rows, 64) for rows in OUT} & set(saved)
    assert (2, 3, sum(RANKS)) in saved


def test_checkpointing_recomputes_the_same_gradients():
    given = arguments()
    plain = gradients_of(adapted_4bit(*given), given)
    again = gradients_of(checkpoint(adapted_4bit, *given, use_reentrant=False), given)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
