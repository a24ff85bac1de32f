"""Products that learn, several weights at once: as `linear_4bit` gives them, with the same gradients."""

from __future__ import annotations

import pytest
import torch
from qlora_kernels import adapted_4bit, dequantize_4bit, linear_4bit, quantize_4bit
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


def side_by_side(*given):
    """Made in one, then taken apart."""
    (whole,) = in_one(*given)
    return whole.split(OUT, dim=-1)


def in_one(*given):
    return adapted_4bit(*given, True)


def each(*given):
    return adapted_4bit(*given, False)


@pytest.mark.parametrize("together", [False, True])
def test_opcheck(together):
    torch.library.opcheck(adapted_4bit, (*arguments(), together))


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6)])
@pytest.mark.parametrize("rows", [16, 64])
def test_the_gradient_of_a_long_input_is_one_product_too(rows, dtype, apart):
    """Where it is twice as long as the output, A lies below the weight."""
    weight = quantize_4bit(torch.randn(rows, 64))
    grad, grad_low, lora_a = (
        torch.randn(*shape, dtype=dtype) for shape in ((2, 3, rows), (2, 3, 8), (8, 64))
    )
    made = adapted_4bit_grad_input(grad, grad_low, lora_a, weight.tensors, 64, "nf4", [rows])
    exact = grad.double() @ weight.dequantize(dtype).double() + grad_low.double() @ lora_a.double()
    assert made.shape == (2, 3, 64)
    assert (made - exact).norm() <= apart * exact.norm()


def kept(tensors, *, apart=False, room=True):
    """The two weights dequantized, as `keep_in_one` lays them."""
    beside = sum(RANKS) if room else 0
    whole = torch.full((sum(OUT), 64 + beside), torch.nan)
    parts = whole.split(OUT)
    for part, codes, rows in zip(parts, (tensors[:5], tensors[5:]), OUT, strict=True):
        part[:, :64] = dequantize_4bit(codes[0], codes[1], 64, "nf4", [rows, 64], torch.float32, *codes[2:])
    return [part.clone() for part in parts] if apart else list(parts)


@pytest.mark.parametrize("how", [{}, {"apart": True}, {"room": False}])
def test_weights_that_lie_dequantized_give_the_same_wherever_they_lie(how):
    given = arguments()
    again = (*given[:3], kept(given[3], **how), *given[4:])
    for multiply in (side_by_side, each):
        ours, theirs = multiply(*again), multiply(*given)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        for one, other in zip(gradients_of(ours, again), gradients_of(theirs, given), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_what_is_put_into_the_room_of_a_kept_weight_is_no_change_of_it():
    """Of two passes forward before one goes backward."""
    given = arguments()
    again = (*given[:3], kept(given[3]), *given[4:])
    made, alone = side_by_side(*again), side_by_side(*given)
    side_by_side(*again)
    torch.testing.assert_close(gradients_of(made, again), gradients_of(alone, given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("multiply", [each, in_one])
def test_products_may_be_changed_where_they_lie(multiply):
    """As OLMo clips query, key and value."""
    given = arguments()
    changed = torch.cat([made.clamp_(-1, 1) for made in multiply(*given)], dim=-1)
    alone = torch.cat([made.clamp_(-1, 1) for made in each_alone(*given)], dim=-1)
    torch.testing.assert_close(changed, alone, rtol=1e-4, atol=1e-4)
    for one, other in zip(gradients_of([changed], given), gradients_of([alone], given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_opcheck_of_the_gradient_of_the_input():
    grad = torch.randn(2, 3, sum(OUT))
    _, lora_a, low_rank, tensors, *_ = arguments()
    given = grad, torch.randn_like(low_rank), lora_a.detach(), tensors, 64, "nf4", list(OUT)
    torch.library.opcheck(adapted_4bit_grad_input, given)


@pytest.mark.parametrize("biased", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6)])
@pytest.mark.parametrize("multiply", [each, side_by_side])
def test_products_and_gradients_are_those_of_each_weight_alone(multiply, dtype, apart, biased):
    given = arguments(dtype, biased)
    ours, theirs = multiply(*given), each_alone(*given)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= apart * other.norm()
    for one, other in zip(gradients_of(ours, given), gradients_of(theirs, given), strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= apart * other.norm()


@pytest.mark.parametrize("multiply", [each, side_by_side])
def test_an_output_that_nothing_is_learned_from_has_no_gradient_of_its_own(multiply):
    given = arguments()
    first, _ = multiply(*given)
    alone, _ = each_alone(*given)
    wanted = [given[0], given[1], given[-1][0]]
    ours, theirs = (torch.autograd.grad(made.square().sum(), wanted) for made in (first, alone))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("operation", [each, in_one])
def test_no_weight_is_saved_for_backward(operation):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        operation(*arguments())
    assert not {(rows, 64) for rows in OUT} & set(saved)
    assert (2, 3, sum(RANKS)) in saved


@pytest.mark.parametrize("multiply", [each, side_by_side])
def test_checkpointing_recomputes_the_same_gradients(multiply):
    given = arguments()
    plain = gradients_of(multiply(*given), given)
    again = gradients_of(checkpoint(multiply, *given, use_reentrant=False), given)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
