"""The Triton twin of the loss: on a card for real, elsewhere in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

pytest.importorskip("triton", reason="triton isn't installed")

ON_CARD = torch.cuda.is_available()
DEVICE = "cuda" if ON_CARD else "cpu"


@pytest.fixture(scope="module")
def losses_and_gradient():
    from qlora_kernels.triton.cross_entropy import losses_and_gradient

    return losses_and_gradient


def plain(logits, targets, logit_scale, softcap):
    scaled = logits * logit_scale
    scaled = scaled if softcap is None else softcap * torch.tanh(scaled / softcap)
    losses = cross_entropy(scaled, targets, reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), logits)[0]


@pytest.mark.parametrize("vocabulary", [5, 128, 20_000])
@pytest.mark.parametrize(("logit_scale", "softcap"), [(1.0, None), (0.25, None), (2.0, 5.0)])
def test_losses_and_gradient_are_those_of_plain_torch(losses_and_gradient, vocabulary, logit_scale, softcap):
    torch.manual_seed(0)
    logits = (4 * torch.randn(3, vocabulary, device=DEVICE)).requires_grad_()
    targets = torch.randint(vocabulary, (3,), device=DEVICE)
    expected_losses, expected_gradient = plain(logits, targets, logit_scale, softcap)

    overwritten = logits.detach().clone()
    losses = losses_and_gradient(overwritten, targets, logit_scale, softcap)

    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(overwritten, expected_gradient, rtol=1e-4, atol=1e-6)


def test_large_logits_do_not_overflow(losses_and_gradient):
    logits = torch.tensor([[3e4, -3e4, 0.0]], device=DEVICE)
    losses = losses_and_gradient(logits, torch.tensor([0], device=DEVICE))
    assert losses.tolist() == [0.0]
    assert logits.tolist() == [[0.0, 0.0, 0.0]]
