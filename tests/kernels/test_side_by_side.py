"""Tensors side by side: values, gradients, and that a compiler copies none."""

from __future__ import annotations

import torch
from qlora_kernels.side_by_side import apart, side_by_side, write_in_place
from torch import Tensor
from torch._inductor.utils import run_and_get_code


def test_opcheck() -> None:
    torch.library.opcheck(side_by_side, ([torch.randn(2, 3, 4), torch.randn(2, 3, 5)],))


def test_parts_and_their_gradients_are_those_of_split() -> None:
    torch.manual_seed(0)
    whole = torch.randn(2, 3, 9, requires_grad=True)
    for ours, theirs in zip(apart(whole, [4, 5]), whole.split([4, 5], dim=-1), strict=True):
        assert torch.equal(ours, theirs)
    found = [
        torch.autograd.grad((parts[0].sin() * 2).sum() + parts[1].exp().sum(), whole)[0]
        for parts in (apart(whole, [4, 5]), whole.split([4, 5], dim=-1))
    ]
    assert torch.equal(*found)


def test_the_gradient_of_one_part_alone_is_passed_on_as_it_is() -> None:
    whole = torch.randn(2, 3, 9, requires_grad=True)
    (part,) = apart(whole, [9])
    wanted = torch.randn(2, 3, 9)
    (found,) = torch.autograd.grad(part, whole, wanted)
    assert found.data_ptr() == wanted.data_ptr()


def test_what_makes_them_writes_them_where_they_lie() -> None:
    write_in_place()

    def together(x: Tensor) -> Tensor:
        return side_by_side([x.sin(), x.exp() * 2]) @ torch.ones(16, 1)

    x = torch.randn(4, 8)
    made, (code,) = run_and_get_code(torch.compile(together), x)
    torch.testing.assert_close(made, together(x))
    assert "ops.qlora.side_by_side" not in code  # it isn't called
    torch._dynamo.reset()
