"""The processes that train one adapter together, each on its share of the rows; usually there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as distributed
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world`."""

    rank: int
    world: int

    @classmethod
    def here(cls) -> Ranks:
        """As torch.distributed was started, or alone."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls(0, 1)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the micro-batches of an update."""
        return items[self.rank :: self.world]

    def sum_up(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes its sum over all processes, in place."""
        if self.world > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)
