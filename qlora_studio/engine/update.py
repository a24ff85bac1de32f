"""One update of the adapter: the loss of all its learned tokens, its gradient, and the optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qlora_studio.engine.batches_ahead import UpdateBatches
from qlora_studio.engine.objective import Objective, Rewards
from qlora_studio.engine.optimizer import AdapterOptimizer
from qlora_studio.engine.ranks import Ranks
from qlora_studio.engine.trainer_state import Position

LARGEST_SCALE = 2.0**16  # float16 holds 65504
_GROWS_AFTER = 1000  # updates without overflow


@dataclass(frozen=True)
class UpdateResult:
    """loss: nats per learned token, or of each pair or rated answer; grad_norm: before clipping; rewards: of
    preferences. Where loss or grad_norm isn't finite no update was made."""

    loss: float
    grad_norm: float
    rewards: Rewards | None = None

    @property
    def made(self) -> bool:
        """Whether the adapter moved."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass(eq=False)
class Updater:
    """What an update needs besides its rows."""

    model: PreTrainedModel
    optimizer: AdapterOptimizer
    ranks: Ranks
    objective: Objective
    max_grad_norm: float

    def update(
        self,
        batches: UpdateBatches,
        learning_rate: float,
        position: Position,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> UpdateResult:
        """Sums the loss over all micro-batches, divides it by the number of learned tokens, steps.

        The number is known before the first backward pass, so it doesn't matter how rows are spread.
        meanwhile: called, at least once, when all is asked of the device, and before it is waited for
        """
        count = self.objective.count(batches.every)
        while True:
            result = self._gradients(batches, count, position.loss_scale, meanwhile)
            if math.isfinite(result.grad_norm) or not math.isfinite(result.loss) or position.loss_scale <= 1:
                break
            position.loss_scale /= 2  # float16 overflowed: the same update again, with smaller gradients
            position.scale_steady_for = 0
        if result.made:
            scale = self._gradient_scale(result.grad_norm, position.loss_scale)
            self.optimizer.step(learning_rate, scale)
            if self.model.dtype == torch.float16:
                _grow_scale(position)
        self.optimizer.forget_gradients()
        return result

    def _gradients(
        self, batches: UpdateBatches, count: int, scale: float, meanwhile: Callable[[], None]
    ) -> UpdateResult:
        self.optimizer.forget_gradients()
        if not self.model.training:
            self.model.train()  # goes through thousands of modules, while the card waits
        total = torch.zeros((), device=self.model.device)
        rewards: Rewards | None = None
        self.objective.begin(self.model, batches.ours)
        for index, batch in enumerate(batches.ours):
            loss, found = self.objective.loss(self.model, batch, index)
            (loss * (scale / count)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            rewards = found.plus(rewards) if found is not None else None
            del loss  # its graph: what is recorded next would find nodes of another stream in it
        gradients = self.optimizer.gradients()
        self.ranks.sum_up([total, *gradients])
        told = torch.stack([total, _norm(gradients) / scale])
        self.optimizer.prefetch()  # the card is at the passes still
        meanwhile()
        loss_sum, grad_norm = told.tolist()  # one copy: between two the card would have nothing to do
        return UpdateResult(loss_sum / count, grad_norm, rewards)

    def _gradient_scale(self, norm: float, loss_scale: float) -> float:
        """What takes the loss's scale out of the gradients, and clips them."""
        factor = 1.0 / loss_scale
        if 0 < self.max_grad_norm < norm:
            factor *= self.max_grad_norm / norm
        return factor


def first_loss_scale(dtype: torch.dtype) -> float:
    """Float16 loses small gradients: they are made larger, and smaller again before the step."""
    return LARGEST_SCALE if dtype == torch.float16 else 1.0


def _grow_scale(position: Position) -> None:
    position.scale_steady_for += 1
    if position.scale_steady_for >= _GROWS_AFTER:
        position.loss_scale = min(LARGEST_SCALE, position.loss_scale * 2)
        position.scale_steady_for = 0


def _norm(tensors: list[Tensor]) -> Tensor:
    """Length of all of them as one vector, float32."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm
