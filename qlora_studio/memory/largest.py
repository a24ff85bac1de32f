"""How far a run's settings could go on this device: the most rows at once, and the longest rows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory.correction import NO_CORRECTION, Correction
from qlora_studio.memory.promise import Promise, promise
from qlora_studio.memory.suggestions import changed

_MOST_ROWS = 1024  # as the settings allow
_LENGTHS = 64  # tokens: lengths are looked for in steps of that


class Largest(msgspec.Struct, frozen=True, kw_only=True):
    """The most rows with the length as it is set, and the longest rows with as many as are set.

    batch_size, seq_len: 0 where not even one row, or the shortest one, fits
    every_length:        rows may be as long as any the model was made for
    tight:               it goes, but as tightly as a promise that says so
    recomputed:          layers more than as set are computed again there, to save memory
    gives_up_dequantized: weights don't stay so there, as they do as set
    lacks_ram:           nothing fits, as there is no room in RAM for what is to lie there beside a card
    """

    batch_size: int
    seq_len: int
    every_length: bool
    tight: bool
    recomputed: bool
    gives_up_dequantized: bool = False
    lacks_ram: bool = False
    of: tuple[int, int]  # batch_size and seq_len as set

    @property
    def words(self) -> str:
        """A sentence."""
        rows, length = self.of
        if not self.batch_size and not self.seq_len:
            return f"Not even one row fits{': there is too little RAM' if self.lacks_ram else ''}."
        limit = ", as many as the model was made for" if self.every_length else ""
        said = []
        if self.batch_size:
            said.append(f"{_rows(self.batch_size)} of {length:,} tokens")
        if self.seq_len:
            said.append(f"{_rows(rows)} of {self.seq_len:,} tokens{limit}")
        spared = ["more layers recomputed"] if self.recomputed else []
        spared += ["no weights kept dequantized"] if self.gives_up_dequantized else []
        how = f"{', tightly' if self.tight else ''}{', with ' if spared else ''}{' and '.join(spared)}"
        return f"Largest that fits{how}: {'; or '.join(said)}."


def largest_that_fits(
    shape: ModelShape,
    config: RunConfig,
    *,
    device: str,
    room: int | None,
    free_ram: int | None = None,
    corrected: Correction = NO_CORRECTION,
) -> Largest | None:
    """room: bytes free; None where it isn't known, and neither is the answer. free_ram: as of a promise"""
    if room is None:
        return None

    def promised(key: str, value: int) -> Promise:
        asked = changed(config, {key: value})
        return promise(
            shape,
            asked,
            device=device,
            free_bytes=room,
            free_ram_bytes=free_ram,
            ways=False,
            corrected=corrected,
        )

    found = _largest_of(shape, config, lambda key, value: promised(key, value).verdict == "fits")
    if not (found.batch_size or found.seq_len):
        found = _largest_of(shape, config, lambda key, value: promised(key, value).fits)
        found = msgspec.structs.replace(found, tight=True)
    as_set = promised("training.batch_size", config.training.batch_size)
    reached = {"training.batch_size": found.batch_size, "data.seq_len": found.seq_len}
    there = [promised(key, value) for key, value in reached.items() if value]
    return msgspec.structs.replace(
        found,
        recomputed=any(other.recompute_layers > as_set.recompute_layers for other in there),
        lacks_ram=not there and promised("training.batch_size", 1).lacks_ram,
        gives_up_dequantized=any(other.gives_up_dequantized > as_set.gives_up_dequantized for other in there),
    )


def _largest_of(shape: ModelShape, config: RunConfig, fits: Callable[[str, int], bool]) -> Largest:
    rows = range(1, _MOST_ROWS + 1)
    longest = max(shape.max_position_embeddings, config.data.seq_len)
    lengths = range(_LENGTHS, longest + 1, _LENGTHS)
    seq_len = _largest(lengths, partial(fits, "data.seq_len"))
    return Largest(
        batch_size=_largest(rows, partial(fits, "training.batch_size")),
        seq_len=seq_len,
        every_length=bool(lengths) and seq_len == lengths[-1],
        tight=False,
        recomputed=False,
        of=(config.training.batch_size, config.data.seq_len),
    )


def _largest(choices: Sequence[int], fits: Callable[[int], bool]) -> int:
    """0 where none does."""
    count = bisect_left(choices, True, key=lambda choice: not fits(choice))
    return choices[count - 1] if count else 0


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"
