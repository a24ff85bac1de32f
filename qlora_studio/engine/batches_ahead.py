"""An update's batches on the device. Beside a card that computes, those of the next update are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qlora_studio.data.packing import Batch, MicroBatch, Update
from qlora_studio.engine.packed_batch import PackedBatch
from qlora_studio.engine.ranks import Ranks
from qlora_studio.errors import StudioError


@dataclass(frozen=True, eq=False)
class UpdateBatches:
    """Micro-batches of an update. ours: this process's share of them, on the device"""

    every: Sequence[Batch]
    ours: Sequence[PackedBatch]


class BatchesAhead:
    """Made when they are asked for, or before."""

    def __init__(
        self,
        collate: Callable[[MicroBatch], Batch],
        put: Callable[[Batch], PackedBatch],
        ranks: Ranks,
        *,
        looks_ahead: bool,
    ) -> None:
        """looks_ahead: whether `prepare` does anything"""
        self._collate, self._put, self._ranks = collate, put, ranks
        self._looks_ahead = looks_ahead
        self._prepared: tuple[Update, UpdateBatches] | None = None

    def of(self, update: Update) -> UpdateBatches:
        """What was prepared, where it is of this very update; else it is thrown away."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[0] is update:
            return prepared[1]
        return self._made(update)

    def prepare(self, update: Update | None) -> None:
        """So that `of` has it; None: there is none. What rows, disk or memory don't let be made is left to
        `of`: the step that it belongs to fails then, and tells its rows.
        """
        if not self._looks_ahead or update is None:
            return
        if self._prepared is not None and self._prepared[0] is update:
            return
        self._prepared = None
        try:
            self._prepared = update, self._made(update)
        except (StudioError, OSError, ValueError, RuntimeError, MemoryError):
            return

    def _made(self, update: Update) -> UpdateBatches:
        every = [self._collate(micro_batch) for micro_batch in update.micro_batches]
        return UpdateBatches(every, [self._put(batch) for batch in self._ranks.share(every)])
