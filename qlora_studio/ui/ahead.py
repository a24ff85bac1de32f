"""The window's work in pieces, between which it answers: awaited by a person, or done before anyone waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from PySide6.QtCore import QObject, QTimer, Signal

PAUSE_MS = 20  # long enough for what the last piece gave to do, and for a frame
LONG_PAUSE_MS = 300  # after a person asked for something: that comes first


class Ahead(QObject):
    """Jobs are done in their order, those a person waits for first; `finished` when none is left."""

    finished = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs: deque[Iterator[None]] = deque()
        self._awaited: deque[Iterator[None]] = deque()
        self._timer = QTimer(self, singleShot=True)
        self._timer.timeout.connect(self._do_a_piece)

    def add(self, job: Iterator[None]) -> None:
        """job: does a piece up to each `yield`."""
        self._jobs.append(job)
        self._timer.start(PAUSE_MS)

    def add_awaited(self, job: Iterator[None]) -> None:
        """A person waits for its end: before all others, and only what has happened meanwhile in between."""
        self._awaited.append(job)
        self._timer.start(0)

    def make_way(self) -> None:
        """A person has asked for something."""
        if self._jobs and not self._awaited:
            self._timer.start(LONG_PAUSE_MS)

    def _do_a_piece(self) -> None:
        jobs = self._awaited or self._jobs
        pause = PAUSE_MS if jobs is self._jobs else LONG_PAUSE_MS
        try:
            next(jobs[0])
        except StopIteration:
            jobs.popleft()
        if self._awaited:
            self._timer.start(0)
        elif self._jobs:
            self._timer.start(pause)
        else:
            self.finished.emit()
