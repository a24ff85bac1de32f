"""Which rows stand together in an update, in which order; the same seed always gives the same plan."""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlora_studio.data.tokenized_row import TokenizedRow, TokenizedRows
from qlora_studio.errors import StudioError

Pack = tuple[int, ...]  # indices of the rows that share one row of the batch, in their order there
MicroBatch = tuple[Pack, ...]

PADDED_TO = 16  # unpacked batches are padded to a multiple of this: few shapes, little padding

# Rows are put together within windows of the shuffled order. Larger windows fill better and mix less.
_WINDOW_ROWS = 4096
_WINDOW_PACKS = 64  # and at least so many packs, or the last, half empty one would weigh too much
_WINDOW_BATCHES = 64  # without packing: micro-batches whose rows are sorted by length together


@dataclass(frozen=True)
class Update:
    """One optimizer step: the micro-batches whose gradients are summed."""

    micro_batches: tuple[MicroBatch, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """Indices of all rows, in the order they are computed."""
        return tuple(row for batch in self.micro_batches for pack in batch for row in pack)


def lessened(update: Update, most_packs: int, left_out: Collection[int] = ()) -> Update:
    """The same rows in micro-batches of at most `most_packs` packs, without those left out.

    No micro-batch where no row is left. The loss of an update is over all its rows, however they are spread.
    """
    batches: list[MicroBatch] = []
    for batch in update.micro_batches:
        kept = [tuple(row for row in pack if row not in left_out) for pack in batch] if left_out else batch
        packs = [pack for pack in kept if pack]
        batches += [tuple(packs[i : i + most_packs]) for i in range(0, len(packs), most_packs)]
    return Update(tuple(batches))


def plan_epoch(
    lengths: NDArray[np.int32],
    *,
    seq_len: int,
    packing: bool,
    seed: int,
    epoch: int,
    batch_size: int,
    accumulation: int,
) -> list[Update]:
    """Every row exactly once; depends on the arguments alone. The last update may be smaller.

    Raises: StudioError where there is no row, or one is longer than `seq_len`.
    """
    if not len(lengths):
        raise StudioError("There is no row to learn from.")
    if int(lengths.max()) > seq_len:
        raise ValueError(f"row {int(lengths.argmax())} is longer than {seq_len} tokens")
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    if packing:
        packs = _packs(lengths, seq_len, random)
        batches = [tuple(packs[i : i + batch_size]) for i in range(0, len(packs), batch_size)]
    else:
        batches = list(_batches_of_like_length(lengths, batch_size, random))
    return [Update(tuple(batches[i : i + accumulation])) for i in range(0, len(batches), accumulation)]


def steps_in(
    epochs: float,
    lengths: NDArray[np.int32],
    *,
    seq_len: int,
    packing: bool,
    seed: int,
    batch_size: int,
    accumulation: int,
) -> int:
    """Updates in `epochs`; a part of an epoch counts as that part of its updates, and at least one."""
    whole, part = int(epochs), epochs - int(epochs)
    counts = [
        len(
            plan_epoch(
                lengths,
                seq_len=seq_len,
                packing=packing,
                seed=seed,
                epoch=epoch,
                batch_size=batch_size,
                accumulation=accumulation,
            )
        )
        for epoch in range(whole + (part > 0))
    ]
    if part > 0:
        counts[-1] = round(counts[-1] * part)
    return max(1, sum(counts))


def evaluation_batches(
    lengths: NDArray[np.int32], *, seq_len: int, packing: bool, batch_size: int
) -> list[MicroBatch]:
    """Every row once, always in the same order."""
    if not len(lengths):
        return []
    plan = plan_epoch(
        lengths, seq_len=seq_len, packing=packing, seed=0, epoch=0, batch_size=batch_size, accumulation=1
    )
    return [update.micro_batches[0] for update in plan]


def _packs(lengths: NDArray[np.int32], seq_len: int, random: np.random.Generator) -> list[Pack]:
    order = random.permutation(len(lengths))
    rows_for_packs = int(_WINDOW_PACKS * seq_len / max(1.0, float(lengths.mean())))
    window = max(_WINDOW_ROWS, rows_for_packs)
    packs: list[Pack] = []
    for start in range(0, len(order), window):
        filled = _fill(order[start : start + window], lengths, seq_len)
        packs.extend(filled[i] for i in random.permutation(len(filled)))  # or long rows would come first
    return packs


def _fill(rows: NDArray[np.int64], lengths: NDArray[np.int32], seq_len: int) -> list[Pack]:
    """Best fit, longest first: each row goes where the least room is left behind."""
    sizes = lengths[rows]
    longest_first = np.argsort(-sizes, kind="stable")
    packs: list[list[int]] = []
    with_room: defaultdict[int, list[int]] = defaultdict(list)  # tokens left -> indices of packs
    rooms: list[int] = []  # the keys of `with_room` that hold a pack, ascending
    for row, size in zip(rows[longest_first].tolist(), sizes[longest_first].tolist(), strict=True):
        at = bisect.bisect_left(rooms, size)
        if at == len(rooms):
            pack, room = len(packs), seq_len
            packs.append([])
        else:
            room = rooms[at]
            pack = with_room[room].pop()
            if not with_room[room]:
                del rooms[at]
        packs[pack].append(row)
        left = room - size
        if left:
            if not with_room[left]:
                bisect.insort(rooms, left)
            with_room[left].append(pack)
    return [tuple(pack) for pack in packs]


def _batches_of_like_length(
    lengths: NDArray[np.int32], batch_size: int, random: np.random.Generator
) -> Iterator[MicroBatch]:
    order = random.permutation(len(lengths))
    window = batch_size * _WINDOW_BATCHES
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        by_length = rows[np.argsort(lengths[rows], kind="stable")].tolist()
        batches = [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
        for i in random.permutation(len(batches)):
            yield tuple((row,) for row in batches[i])


@dataclass(frozen=True, eq=False)
class Batch:
    """What one forward pass takes. b rows of the batch, s positions, n of them learned.

    input_ids:    int64 [b, s], the pad id where nothing stands
    position_ids: int64 [b, s], from 0 in each packed row
    segment_ids:  int32 [b, s], 0, 1, ... for the packed rows of a row; -1: padding.
                  A position sees earlier positions of its own segment only.
    learned:      int64 [n], positions in the flattened [b * s] whose next token counts
    targets:      int64 [n], that next token
    weights:      float32 [n], how much it counts
    chats:        int64 [n], which chat it stands in: 2 k for row k, 2 k + 1 for that row's second chat
    rows:         index in the imported data set of each packed row
    tokens:       without padding
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    segment_ids: NDArray[np.int32]
    learned: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]
    chats: NDArray[np.int64]
    rows: tuple[int, ...]
    tokens: int

    @property
    def learned_tokens(self) -> int:
        """How many tokens the loss counts."""
        return len(self.targets)


def collate(
    micro_batch: Sequence[Pack], rows: TokenizedRows, *, pad_id: int, length: int = 0, height: int = 0
) -> Batch:
    """The arrays of a micro-batch, at least `length` positions long and `height` rows high.

    Without `length` they are as long as the longest pack, raised to a multiple of 16.
    """
    used = max(int(sum(rows.lengths[row] for row in pack)) for pack in micro_batch)
    s = max(length, used) if length else -(-used // PADDED_TO) * PADDED_TO
    b = max(height, len(micro_batch))
    input_ids = np.full((b, s), pad_id, dtype=np.int64)
    position_ids = np.zeros((b, s), dtype=np.int64)
    segment_ids = np.full((b, s), -1, dtype=np.int32)
    target_weights = np.zeros((b, s), dtype=np.float32)  # of predicting the token *at* a position
    chats = np.zeros((b, s), dtype=np.int64)
    ids: list[int] = []
    for y, pack in enumerate(micro_batch):
        x = segment = 0
        for index in pack:
            row = rows[index]
            for part, ends in enumerate(_chat_ends(row)):
                start, end = x, x + ends[1] - ends[0]
                input_ids[y, start:end] = row.ids[slice(*ends)]
                position_ids[y, start:end] = np.arange(end - start)
                segment_ids[y, start:end] = segment
                # a chat's first token follows a foreign one
                target_weights[y, start + 1 : end] = row.weights[ends[0] + 1 : ends[1]]
                chats[y, start:end] = 2 * len(ids) + part
                x, segment = end, segment + 1
            ids.append(row.row)
    at = np.flatnonzero(target_weights)
    return Batch(
        input_ids=input_ids,
        position_ids=position_ids,
        segment_ids=segment_ids,
        learned=at - 1,
        targets=input_ids.reshape(-1)[at],
        weights=target_weights.reshape(-1)[at],
        chats=chats.reshape(-1)[at],
        rows=tuple(ids),
        tokens=int((segment_ids >= 0).sum()),
    )


def _chat_ends(row: TokenizedRow) -> list[tuple[int, int]]:
    """First token of each of its chats, and the one after its last."""
    ends = [0, row.second, len(row.ids)] if row.second else [0, len(row.ids)]
    return list(itertools.pairwise(ends))
