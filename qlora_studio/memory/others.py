"""What other programs take of the device, and what of a paged optimizer can't be on a card beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from qlora_studio.memory.devices import CardTaken
from qlora_studio.memory.parts import never_estimated


class OthersOnCard:
    """By the driver's list of processes where ours is in it; else by how much more is taken than before.

    A container sees its processes under other numbers than the driver does.
    """

    def __init__(self) -> None:
        self._card = CardTaken()
        self._before: int | None = None  # bytes that weren't ours at the first look

    def look(self, ours: Callable[[], int]) -> int | None:
        """Bytes; None where the driver doesn't tell.

        ours: those that torch and the optimizer hold there; asked for only where it matters, as torch takes
            longer to tell than the driver
        """
        taken = self._card.look()
        if taken is None:
            return None
        used, by_process = taken
        if os.getpid() in by_process:
            return sum(size for pid, size in by_process.items() if pid != os.getpid())
        not_ours = max(0, used - ours())
        if self._before is None:
            self._before = not_ours
        return max(0, not_ours - self._before)


class OthersInRam:
    """What isn't free and isn't this process's."""

    def __init__(self) -> None:
        import psutil

        self._virtual_memory: Any = psutil.virtual_memory
        self._process = psutil.Process()

    def look(self, ours: Callable[[], int]) -> int:
        """Bytes. ours: unused, as the process knows what it holds."""
        memory = self._virtual_memory()
        return max(0, int(memory.total - memory.available - self._process.memory_info().rss))


def bytes_in_ram(paged: int, reserved: int, others: int, total: int) -> int:
    """Of a paged optimizer's state, what at least lies in RAM: there is no room for it on the card.

    reserved: by torch; others: that other programs take; total: of the card
    """
    free = total - reserved - others - never_estimated("cuda")
    return min(max(0, paged - max(0, free)), paged)
