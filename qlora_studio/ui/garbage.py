"""Python's garbage is collected in the window's own thread alone.

A window's objects refer to each other in circles. Where a thread that reads files happens to collect them,
timers die in a thread that isn't theirs, and the next one that is due ends the process.
"""

from __future__ import annotations

import gc

from PySide6.QtCore import QObject, QTimer

LOOK_EVERY_MS = 1_000


class Collector(QObject):
    """From now on no other thread collects. Lives as long as `parent`."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        gc.disable()
        timer = QTimer(self, interval=LOOK_EVERY_MS)
        timer.timeout.connect(self.collect)
        timer.start()

    def collect(self) -> None:
        """The oldest generation that has grown over its threshold, with the younger ones."""
        grown = zip(gc.get_count(), gc.get_threshold(), strict=True)
        due = [generation for generation, (count, most) in enumerate(grown) if count > most]
        if due:
            gc.collect(due[-1])
