"""Many weights in one flat tensor: the optimizer sees one, the layers and the files see each."""

import torch
from torch import nn

from qlora_studio.engine.optimizer import FlatWeights

SHAPES = ((3, 4), (5,), (2, 2))


def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def test_what_moves_the_flat_tensor_moves_the_weights() -> None:
    before = [weight.detach().clone() for weight in weights()]
    moved = weights()

    FlatWeights(moved).weight.data.add_(1)

    torch.testing.assert_close([weight.detach() for weight in moved], [weight + 1 for weight in before])


def test_the_gradients_of_all_weights_lie_one_behind_the_other() -> None:
    learned = weights()
    flat = FlatWeights(learned)
    (learned[0].square().sum() + learned[2].sum()).backward()

    wanted = torch.cat([2 * learned[0].detach().view(-1), torch.zeros(5), torch.ones(4)])

    torch.testing.assert_close(flat.gradient(), wanted)


def test_gradients_are_gathered_once_so_that_they_can_be_clipped() -> None:
    learned = weights()
    flat = FlatWeights(learned)
    sum(weight.sum() for weight in learned).backward()

    flat.gradient().mul_(0.5)

    assert flat.gradient().max() == 0.5


def test_a_state_parted_by_weight_and_joined_again_is_the_same() -> None:
    flat = FlatWeights(weights())
    state = {"step": 3, "state1": torch.arange(21.0), "unorm_vec": torch.zeros(1)}

    parts = flat.parted(state)
    joined = flat.joined([{key: torch.as_tensor(value) for key, value in part.items()} for part in parts])

    assert [part["state1"].shape for part in parts] == [torch.Size(shape) for shape in SHAPES]
    assert int(joined["step"]) == 3
    assert torch.equal(joined["state1"], state["state1"])


def test_a_gradient_that_is_kept_is_summed_where_it_lies() -> None:
    learned = weights()
    flat = FlatWeights(learned)
    kept = flat.keep_gradient()
    for _ in range(2):
        (learned[0].square().sum() + learned[2].sum()).backward()

    wanted = torch.cat([4 * learned[0].detach().view(-1), torch.zeros(5), 2 * torch.ones(4)])

    torch.testing.assert_close(kept, wanted)
    assert flat.gradient() is kept
    assert flat.weight.grad is kept
