"""The chunked loss against the plain one."""

from __future__ import annotations

import pytest
import torch
from qlora_kernels import cross_entropy as kernels
from qlora_kernels import learned_cross_entropy, learned_token_losses
from torch.nn.functional import cross_entropy, linear

N, HIDDEN, VOCABULARY = 37, 8, 101


def plain_loss(hidden, head_weight, targets, bias=None, weights=None, logit_scale=1.0, softcap=None):
    logits = linear(hidden, head_weight, bias).float() * logit_scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    losses = cross_entropy(logits, targets, reduction="none")
    return (losses if weights is None else losses * weights).sum()


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    hidden = torch.randn(N, HIDDEN).to(dtype).requires_grad_()
    return hidden, torch.randn(VOCABULARY, HIDDEN).to(dtype), torch.randint(VOCABULARY, (N,))


OPTIONS = [
    {},
    {"logit_scale": 0.25},
    {"softcap": 5.0},
    {"logit_scale": 2.0, "softcap": 30.0, "weights": torch.linspace(0, 2, N)},
    {"bias": torch.linspace(-1, 1, VOCABULARY)},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("chunk", [1, 10, N, None])
def test_loss_and_gradient_are_those_of_the_whole_logits(options, chunk):
    hidden, head, targets = inputs()
    expected = plain_loss(hidden, head, targets, **options)
    (expected_grad,) = torch.autograd.grad(expected / 7, hidden)

    renamed = {{"bias": "head_bias"}.get(name, name): value for name, value in options.items()}
    loss = learned_cross_entropy(hidden, head, targets, chunk=chunk, **renamed)
    (grad,) = torch.autograd.grad(loss / 7, hidden)

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_in_bfloat16_only_the_gradients_last_rounding_differs():
    hidden, head, targets = inputs(torch.bfloat16)
    expected = plain_loss(hidden, head, targets)
    (expected_grad,) = torch.autograd.grad(expected / 7, hidden)

    loss = learned_cross_entropy(hidden, head, targets, chunk=8)
    (grad,) = torch.autograd.grad(loss / 7, hidden)

    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)  # both start from logits rounded to bfloat16
    # The logits' gradient, the product and the scaled result are each rounded: 3 x 2^-9 of the largest
    assert (grad - expected_grad).abs().max() < 3 * 2**-9 * expected_grad.abs().max()


def test_a_head_that_is_trained_gets_its_gradient():
    hidden, head, targets = inputs()
    head.requires_grad_()
    expected = torch.autograd.grad(plain_loss(hidden, head, targets), (hidden, head))

    grads = torch.autograd.grad(learned_cross_entropy(hidden, head, targets, chunk=10), (hidden, head))

    torch.testing.assert_close(grads, expected)


def test_without_gradients_the_loss_is_the_same_number():
    hidden, head, targets = inputs()
    trained = learned_cross_entropy(hidden, head, targets, chunk=10)
    with torch.no_grad():
        evaluated = learned_cross_entropy(hidden, head, targets, chunk=10)
    torch.testing.assert_close(evaluated, trained.detach())
    assert not evaluated.requires_grad


def test_no_position_at_all_costs_nothing_and_learns_nothing():
    hidden, head, _ = inputs()
    loss = learned_cross_entropy(hidden[:0], head, torch.empty(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().sum() == 0


@pytest.mark.parametrize("trained_head", [False, True])
def test_logits_of_all_positions_never_exist_at_once(trained_head):
    hidden, head, targets = inputs()
    head.requires_grad_(trained_head)
    widest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal widest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.shape[-1:] == (VOCABULARY,) and func is not t:
                widest = max(widest, result.shape[0])
            return result

    t = torch.ops.aten.t.default
    with Sizes():
        learned_cross_entropy(hidden, head, targets, chunk=10).backward()

    assert widest == 10


@pytest.mark.parametrize("options", [{}, {"logit_scale": 2.0, "softcap": 5.0}])
@pytest.mark.parametrize("chunk", [1, 10, N, None])
def test_the_losses_of_single_tokens_and_any_mixture_of_their_gradients_are_the_plain_ones(options, chunk):
    hidden, head, targets = inputs()
    mixture = torch.linspace(-1, 2, N)
    plain = [plain_loss(hidden[i : i + 1], head, targets[i : i + 1], **options) for i in range(N)]
    (expected_grad,) = torch.autograd.grad((torch.stack(plain) * mixture).sum(), hidden)

    losses = learned_token_losses(hidden, head, targets, chunk=chunk, **options)
    (grad,) = torch.autograd.grad((losses * mixture).sum(), hidden)

    torch.testing.assert_close(losses, torch.stack(plain))
    torch.testing.assert_close(grad, expected_grad)


def test_without_gradients_the_losses_of_single_tokens_are_the_same_numbers():
    hidden, head, targets = inputs()
    trained = learned_token_losses(hidden, head, targets, chunk=10)
    with torch.no_grad():
        evaluated = learned_token_losses(hidden, head, targets, chunk=10)
        none = learned_token_losses(hidden[:0], head, targets[:0])
    torch.testing.assert_close(evaluated, trained.detach())
    assert none.shape == (0,)


@pytest.mark.parametrize(
    ("vocabulary", "asked", "positions"),
    [
        (128_256, None, 256),  # 2**25 logits, 261 positions
        (128_256, 2**27, 1024),
        (32_000, None, 1024),
        (49_152, None, 512),
        (151_936, None, 220),  # less than a tile is left as it is
        (2**26, None, 1),
    ],
)
def test_on_a_card_positions_at_one_time_fill_whole_tiles(monkeypatch, vocabulary, asked, positions):
    monkeypatch.setattr(kernels, "_in_place_kernel", lambda _: plain_loss)
    on_card, head = torch.empty(1, 1, device="meta"), torch.empty(vocabulary, 1, device="meta")
    assert kernels._chunk_of(on_card, head, asked) == positions


def test_no_more_logits_are_made_where_none_takes_anothers_place():
    on_card, head = torch.empty(1, 1, device="meta"), torch.empty(128_256, 1, device="meta")
    assert kernels._chunk_of(on_card, head, 2**27) == 256
    assert kernels._chunk_of(torch.empty(1, 1), head, 2**27) == 2**23 // 128_256


@pytest.mark.parametrize("loss", [learned_cross_entropy, learned_token_losses])
def test_more_logits_are_made_for_the_gradient_of_a_frozen_head_alone(monkeypatch, loss):
    asked = []

    def note(hidden, head_weight, logits_at_once):
        asked.append(logits_at_once)
        return 10

    monkeypatch.setattr(kernels, "_chunk_of", note)
    hidden, head, targets = inputs()
    loss(hidden, head, targets, logits_at_once=7)
    with torch.no_grad():
        loss(hidden, head, targets, logits_at_once=7)
    loss(hidden, head.requires_grad_(), targets, logits_at_once=7)
    assert asked == [7, None, None]
