"""One update: what is asked of the device, and when. Model, objective and optimizer are stood in for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qlora_studio.engine.batches_ahead import UpdateBatches
from qlora_studio.engine.ranks import Ranks
from qlora_studio.engine.trainer_state import Position
from qlora_studio.engine.update import Updater, UpdateResult

COUNT = 3  # learned tokens
WEIGHTS = torch.tensor([0.1, -0.7, 1.3])
BATCHES = [torch.tensor([0.3, 0.9, -0.2]), torch.tensor([-1.1, 0.4, 0.8])]


class Optimizer:
    """Of one weight. told: what was asked of it, in order"""

    def __init__(self, told: list[str]) -> None:
        self.weight = nn.Parameter(WEIGHTS.clone())
        self.told = told
        self.scales: list[float] = []

    def step(self, learning_rate: float, gradient_scale: float) -> None:
        self.told.append("step")
        self.scales.append(gradient_scale)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.told.append(name)

    def gradients(self) -> list[Tensor]:
        assert self.weight.grad is not None
        return [self.weight.grad]

    def forget_gradients(self) -> None:
        self.weight.grad = None


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each time that the processor looks at numbers of the device, and what else is told."""
    found: list[str] = []
    for name in ("__float__", "item", "tolist"):
        plain = getattr(Tensor, name)

        def look(tensor: Tensor, plain: Callable[[Tensor], Any] = plain) -> Any:
            found.append("wait")
            return plain(tensor)

        monkeypatch.setattr(Tensor, name, look)
    return found


def made(
    told: list[str], optimizer: Optimizer | None = None, max_grad_norm: float = 1e6, loss_scale: float = 1.0
) -> UpdateResult:
    optimizer = optimizer or Optimizer(told)
    objective = SimpleNamespace(
        count=lambda _: COUNT,
        begin=lambda *_: None,
        loss=lambda _model, batch, _index: ((optimizer.weight * batch).square().sum(), None),
    )
    model = SimpleNamespace(training=True, device=torch.device("cpu"), dtype=torch.float32)
    needs: dict[str, Any] = {"model": model, "optimizer": optimizer, "objective": objective}
    updater = Updater(**needs, ranks=Ranks(0, 1), max_grad_norm=max_grad_norm)
    batches: Any = BATCHES
    meanwhile = partial(told.append, "meanwhile")
    return updater.update(UpdateBatches(batches, batches), 1e-2, Position(loss_scale=loss_scale), meanwhile)


def test_the_device_is_waited_for_once_after_all_that_can_be_done_beside_it(told: list[str]) -> None:
    made(told)
    assert told == ["prefetch", "meanwhile", "wait", "step"]


def test_loss_and_norm_have_all_their_bits(told: list[str]) -> None:
    weight = WEIGHTS.clone().requires_grad_()
    losses = [(weight * batch).square().sum() for batch in BATCHES]
    for loss in losses:
        (loss * (1 / COUNT)).backward()
    assert weight.grad is not None
    wanted = UpdateResult(float((losses[0] + losses[1]).detach()) / COUNT, float(weight.grad.norm()))

    assert made(told) == wanted


def test_the_optimizer_clips_and_takes_the_losses_scale_out_again(told: list[str]) -> None:
    """By one number: no pass over the gradients of its own."""
    optimizer = Optimizer(told)
    norm = made(told, optimizer).grad_norm
    made(told, optimizer, max_grad_norm=norm / 4)
    made(told, optimizer, max_grad_norm=norm * 4, loss_scale=8.0)
    made(told, optimizer, max_grad_norm=norm / 4, loss_scale=8.0)
    made(told, optimizer, max_grad_norm=0.0)
    assert optimizer.scales == pytest.approx([1, 1 / 4, 1 / 8, 1 / 32, 1])
