"""A micro-batch on the device: its rows one after the other, in one long sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qlora_studio.data.packing import Batch
from qlora_studio.engine.attention import Segments
from qlora_studio.engine.pinned_memory import sent


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """t positions, n of them learned.

    input_ids, position_ids: int64 [1, t]
    learned:                 int64 [n], positions whose next token counts
    targets:                 int64 [n], that next token
    weights:                 float32 [n], how much it counts
    chats:                   int64 [n], which chat it stands in, two for each of `rows` rows; for preferences
    longest:                 for compiled layers, which take every batch alike: no row is longer
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: Segments
    learned: Tensor
    targets: Tensor
    weights: Tensor
    rows: int
    chats: Tensor | None = None
    longest: int | None = None

    @property
    def attention_mask(self) -> Tensor:
        """Which earlier tokens each one sees, as our attention reads it."""
        return self.segments.as_mask() if self.longest is None else self.segments.as_starts(self.longest)


def on_device(
    batch: Batch,
    device: torch.device,
    *,
    keep_padding: bool,
    longest: int | None = None,
    with_chats: bool = False,
) -> PackedBatch:
    """The rows of a batch [b, s] as one sequence.

    keep_padding: t stays b * s, so every micro-batch of a run takes the same memory; padding is then a row of
    its own that nobody looks at. Without it nothing is computed for padding.
    """
    segment_ids = batch.segment_ids.reshape(-1)
    kept = np.ones(len(segment_ids), bool) if keep_padding else segment_ids >= 0
    place = np.cumsum(kept) - 1  # of each kept position in the sequence

    def put(array: NDArray[np.generic]) -> Tensor:
        return sent(torch.from_numpy(np.ascontiguousarray(array)), device)

    return PackedBatch(
        input_ids=put(batch.input_ids.reshape(-1)[kept])[None],
        position_ids=put(batch.position_ids.reshape(-1)[kept])[None],
        segments=Segments.of(_row_lengths(batch, kept), device),
        learned=put(place[batch.learned].astype(np.int64)),
        targets=put(batch.targets),
        weights=put(batch.weights),
        rows=len(batch.rows),
        chats=put(batch.chats) if with_chats else None,
        longest=longest,
    )


def _row_lengths(batch: Batch, kept: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of positions that belong together, in their order."""
    height, width = batch.segment_ids.shape
    rows = np.arange(height)[:, None] * (width + 1)  # no two rows of the batch share a run
    runs = (rows + batch.segment_ids).reshape(-1)[kept]
    starts = np.flatnonzero(np.diff(runs, prepend=runs[0] - 1))
    return [int(length) for length in np.diff(starts, append=len(runs))]
