"""Work of the window that is done before anybody waits for it: a piece, then a pause in which it answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from PySide6.QtCore import QObject, QTimer, Signal

PAUSE_MS = 20  # long enough for what the last piece gave to do, and for a frame
LONG_PAUSE_MS = 300  # after a person asked for something: that comes first


class Ahead(QObject):
    """Jobs are done in their order; `finished` when none is left."""

    finished = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs: deque[Iterator[None]] = deque()
        self._timer = QTimer(self, singleShot=True)
        self._timer.timeout.connect(self._do_a_piece)

    def add(self, job: Iterator[None]) -> None:
        """job: does a piece up to each `yield`."""
        self._jobs.append(job)
        self._timer.start(PAUSE_MS)

    def make_way(self) -> None:
        """A person has asked for something."""
        if self._jobs:
            self._timer.start(LONG_PAUSE_MS)

    def _do_a_piece(self) -> None:
        try:
            next(self._jobs[0])
        except StopIteration:
            self._jobs.popleft()
        if self._jobs:
            self._timer.start(PAUSE_MS)
        else:
            self.finished.emit()
