"""The device that a run would take here, and what is free of it: the same for every command that promises."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qlora_studio.errors import StudioError
from qlora_studio.memory.devices import card_reading, ram_reading


@dataclass(frozen=True)
class Room:
    """device: "cuda" | "cpu". multiplies_in_fp8: of a card; False only where it is known to be too old.
    ram_bytes: free beside a card; None: not known, or there is no card.
    """

    device: str
    free_bytes: int
    multiplies_in_fp8: bool = True
    ram_bytes: int | None = None

    @property
    def may_multiply_in_fp8(self) -> bool:
        """Whether there is a card, and none that is too old."""
        return self.device == "cuda" and self.multiplies_in_fp8

    @property
    def words(self) -> str:
        """After an amount: 2.5 GiB of RAM."""
        return "on the card" if self.device == "cuda" else "of RAM"


def room_here() -> Room:
    """On the card, or in the machine where there is none."""
    card = card_reading()
    if card is not None:
        return Room("cuda", card.free_bytes, card.multiplies_in_fp8, ram_reading().free_bytes)
    return Room("cpu", ram_reading().free_bytes)


def room_of_card(gib: float) -> Room:
    """Of one that isn't here. Raises: StudioError where there is no card of this size."""
    if not (math.isfinite(gib) and 0 < gib <= 100_000):
        raise StudioError(f"--card is {gib:g}; it must be the size of a card in GiB, such as 24.")
    return Room("cuda", int(gib * 2**30))
