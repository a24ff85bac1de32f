"""What the engine tells, a line an event; libraries print elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from qlora_studio.protocol.events import Alive, EngineEvent
from qlora_studio.protocol.lines import EVENTS

ALIVE_S = 5.0


class Outbox:
    """Events from any thread. Once nobody reads them `on_silence` is called, and they are dropped."""

    def __init__(self, pipe: BinaryIO, on_silence: Callable[[], None]) -> None:
        self._pipe = pipe
        self._on_silence = on_silence
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def tell(self, event: EngineEvent) -> None:
        """One line, at once."""
        line = EVENTS.encode(event)
        with self._lock:
            if self._ended.is_set():
                return
            try:
                self._pipe.write(line)
                self._pipe.flush()
            except (OSError, ValueError):
                self._ended.set()
                self._on_silence()

    def tell_that_we_live(self) -> None:
        """Every 5 s, whatever the engine does. For a thread of its own."""
        while not self._ended.wait(ALIVE_S):
            self.tell(Alive())


def stdout_for_events_alone() -> BinaryIO:
    """Libraries print: what they say goes where errors go, to the log."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


@contextlib.contextmanager
def log_in(file: Path) -> Iterator[None]:
    """What is printed meanwhile, by us, Python or a C library, goes to `file`; where it can't, to the log."""
    try:
        descriptor = os.open(
            file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o600
        )
    except OSError:
        yield
        return
    before = os.dup(2)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 1)
        os.dup2(before, 2)
        os.close(before)
