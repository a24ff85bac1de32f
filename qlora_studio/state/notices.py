"""What the window has to say: toasts that go, and the last hundred notices behind the bell."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from PySide6.QtCore import QObject, Signal


@dataclass(frozen=True)
class Notice:
    """`undo`: what [Undo] does, where there is something to undo."""

    text: str
    tone: str = "ok"  # ok | warn | bad
    undo: Callable[[], None] | None = None
    when: float = field(default_factory=time.time)


class Notices(QObject):
    """said: a new Notice, to be shown as a toast."""

    said = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.last: deque[Notice] = deque(maxlen=100)

    def say(self, text: str, tone: str = "ok", undo: Callable[[], None] | None = None) -> None:
        """One sentence of plain text."""
        notice = Notice(text, tone, undo)
        self.last.append(notice)
        self.said.emit(notice)
