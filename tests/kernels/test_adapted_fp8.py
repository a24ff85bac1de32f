"""`adapted_4bit` in e4m3: as near to it as 8 bit allow, its adapters' gradients as they are."""

from __future__ import annotations

import pytest
import torch
from qlora_kernels import fp8, quantize_4bit
from qlora_kernels.adapted import adapted_4bit, low_rank_of
from qlora_kernels.adapted_fp8 import adapted_fp8, adapted_fp8_grad_input

OUT, RANKS, IN = (128, 64), (16, 16), 192
CHECKED = ("test_autograd_registration", "test_faketensor")  # the others multiply e4m3 itself


@pytest.fixture(autouse=True)
def _on_the_card_where_there_is_one():
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield


def arguments(biased=(True, False)):
    """Two weights with the same input, whose rows are of very different size; (those in 16 bit, the rest)."""
    weights = [quantize_4bit(torch.randn(rows, IN) * torch.logspace(-2, 1, rows)[:, None]) for rows in OUT]
    x = torch.randn(2, 8, IN, dtype=torch.bfloat16, requires_grad=True)
    lora_a = torch.randn(sum(RANKS), IN, dtype=torch.bfloat16, requires_grad=True)
    lora_b = [
        torch.randn(rows, r, dtype=torch.bfloat16, requires_grad=True)
        for rows, r in zip(OUT, RANKS, strict=True)
    ]
    tensors = [tensor for weight in weights for tensor in weight.tensors]
    biases = [
        torch.randn(rows, dtype=torch.bfloat16) if has else None
        for rows, has in zip(OUT, biased, strict=True)
    ]
    scales = [fp8.row_scales(each.tensors, each.block_size, each.quant_type, each.shape) for each in weights]
    given = x, lora_a, low_rank_of(x, lora_a), tensors, 64, "nf4", list(OUT), biases, lora_b
    return given, (*fp8.scaled(x.detach()), scales)


def test_opcheck():
    given, rounded = arguments()
    torch.library.opcheck(adapted_fp8, (*given, *rounded), test_utils=CHECKED)


def test_opcheck_of_the_gradient_of_the_input():
    (_, lora_a, low_rank, weights, *_), (_, _, scales) = arguments()
    rounded = fp8.scaled(torch.randn(2, 8, sum(OUT)))
    given = *rounded, low_rank, lora_a.detach(), weights, scales, 64, "nf4"
    torch.library.opcheck(adapted_fp8_grad_input, given, test_utils=CHECKED)


@pytest.mark.parametrize("biased", [(True, True), (True, False), (False, False)])
def test_products_and_gradients_are_rounded_ones(biased):
    given, rounded = arguments(biased)
    ours, theirs = adapted_fp8(*given, *rounded), adapted_4bit(*given, False)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= 0.05 * other.norm()
        assert (one - other).norm() > 1e-3 * other.norm()  # it was made in fp8

    wanted = [given[0], given[1], *given[-1]]
    grads = [torch.randn_like(made) for made in ours]
    found = torch.autograd.grad(ours, wanted, grads)
    of_x, *of_adapters = torch.autograd.grad(theirs, wanted, grads)
    assert (found[0] - of_x).norm() <= 0.05 * of_x.norm()
    for one, other in zip(found[1:], of_adapters, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_neither_weights_nor_what_was_rounded_are_saved():
    given, rounded = arguments()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        adapted_fp8(*given, *rounded)
    assert all(tensor.dtype != fp8.E4M3 for tensor in saved)
    assert not {(rows, IN) for rows in OUT} & {tuple(tensor.shape) for tensor in saved}
