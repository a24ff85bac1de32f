"""The frozen int8 layer gives bitsandbytes' own numbers, and lets go of what went into it."""

from __future__ import annotations

import weakref
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qlora_studio.engine.int8_linear import FrozenInt8Linear


def layer(kind: Any, bias: bool = True) -> Any:
    torch.manual_seed(0)
    weight = torch.randn(24, 16)
    made = kind(16, 24, bias=bias, has_fp16_weights=False, threshold=6.0)
    made.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to("cpu")
    if bias:
        made.bias = torch.nn.Parameter(torch.randn(24), requires_grad=False)
    return made.train()


@pytest.mark.parametrize("shape", [(5, 16), (2, 5, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradient_are_bitsandbytes_own(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(1)
    given = torch.randn(shape)
    given[..., 3] *= 20  # an outlier

    def result(kind: Any) -> list[Tensor]:
        x = given.clone().requires_grad_()
        out = layer(kind, bias)(x)
        out.square().sum().backward()
        assert x.grad is not None
        return [out, x.grad]

    for ours, theirs in zip(result(FrozenInt8Linear), result(bnb.nn.Linear8bitLt), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("kind", "is_held"), [(FrozenInt8Linear, False), (bnb.nn.Linear8bitLt, True)])
def test_what_goes_into_a_recomputed_layer_is_let_go(kind: Any, is_held: bool) -> None:
    seen: list[weakref.ref[Tensor]] = []
    linear = layer(kind)

    def block(x: Tensor) -> Any:
        doubled = 2 * x
        seen.append(weakref.ref(doubled))
        return linear(doubled)

    out = checkpoint(block, torch.randn(5, 16, requires_grad=True), use_reentrant=False)

    assert (seen[0]() is not None) == is_held
    out.sum().backward()


def test_without_gradients_it_is_bitsandbytes_own_layer() -> None:
    x = torch.randn(5, 16)
    with torch.no_grad():
        assert torch.equal(layer(FrozenInt8Linear)(x), layer(bnb.nn.Linear8bitLt)(x))
