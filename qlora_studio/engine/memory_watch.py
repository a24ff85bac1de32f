"""Ten looks a second at what other programs take of the device, beside the steps and not in them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

PERIOD_S = 0.1

_log = logging.getLogger(__name__)


class MemoryWatch:
    """A thread from `start` to `close`.

    look: bytes that others take now; None where that can't be told
    """

    def __init__(self, look: Callable[[], int | None]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._most: int | None = None
        self._now: int | None = None
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)
        self.looks = 0
        self.processor_s = 0.0  # that they took

    def start(self) -> None:
        """From now on."""
        self._thread.start()

    def most(self) -> int:
        """Bytes, of all looks since this was asked before and the one at that time; 0 where nobody tells."""
        with self._lock:
            most = self._now if self._most is None else self._most
            self._most = None
        return most or 0

    def close(self) -> None:
        """Ends the thread and waits for it, but not for a driver that hangs."""
        self._ends.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _watch(self) -> None:
        while not self._ends.is_set():
            start = time.thread_time()
            try:
                found = self._look()
            except Exception:  # noqa: BLE001  # the thread's edge: a driver that breaks down ends no run
                _log.exception("Other programs' memory is no longer watched")
                with self._lock:
                    self._now = None  # what was found before would be told of every later step
                return
            with self._lock:
                self._now = found
                if found is not None:
                    self._most = max(found, self._most or 0)
            self.looks += 1
            self.processor_s += time.thread_time() - start
            self._ends.wait(PERIOD_S)
