"""The thread that owns a reader process: one request at a time, answers as signals."""

from __future__ import annotations

import queue
import threading
import time

from PySide6.QtCore import QObject, QThread, Signal

from qlora_studio.errors import StudioError
from qlora_studio.protocol.child import CLEARING_S, Child, start_reader
from qlora_studio.protocol.events import Problem
from qlora_studio.protocol.lines import BrokenLineError
from qlora_studio.protocol.reading import Progress, ReaderAnswer, ReaderReady, ReaderRequest, Refused

SILENCE_S = 30.0  # without a word about the job in hand: the reader is ended (D1)

_Reader = Child[ReaderRequest, ReaderAnswer]


class ReaderThread(QThread):
    """Answers requests in their order. The process is started at the first one.

    heard: Progress, then one final answer for each request: its own kind, or Refused
    """

    heard = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._requests: queue.SimpleQueue[ReaderRequest | None] = queue.SimpleQueue()
        self._child: _Reader | None = None
        self._given_up: set[int] = set()
        self._current: int | None = None
        self._ending = False
        self._last_word = 0.0  # monotonic seconds

    def ask(self, request: ReaderRequest) -> None:
        """Returns at once."""
        self._requests.put(request)

    def give_up(self, request_id: int) -> None:
        """Its answer isn't wanted any more; the reader is ended where it works on it."""
        self._given_up.add(request_id)
        if self._current == request_id and self._child is not None:
            _end(self._child)

    def renew(self) -> None:
        """The process is to know what changed around it: the next request is answered by another one."""
        if self._current is None and self._child is not None:
            _end(self._child)

    def end(self) -> None:
        """No more requests; the reader ends now."""
        self._ending = True
        self._requests.put(None)
        if self._child is not None:
            _end(self._child)

    def end_if_silent(self) -> None:
        """Called every second by whoever owns the thread."""
        if self._current is not None and time.monotonic() - self._last_word > SILENCE_S:
            self.give_up(self._current)

    def run(self) -> None:
        """Serves until `end`."""
        while (request := self._requests.get()) is not None:
            if request.id in self._given_up:
                self.heard.emit(_refused(request.id, "Stopped."))
                continue
            self._last_word = time.monotonic()
            self._current = request.id
            self.heard.emit(self._answer(request))
            self._current = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _answer(self, request: ReaderRequest) -> ReaderAnswer:
        try:
            child = self._living_child()
            if self._ending or request.id in self._given_up:
                child.kill()  # it was given up while the reader was being started
            child.say(request)
            for answer in child.heard():
                self._last_word = time.monotonic()
                if isinstance(answer, ReaderReady) or answer.id != request.id:
                    continue
                if not isinstance(answer, Progress):
                    return answer
                self.heard.emit(answer)
        except StudioError as error:
            return Refused(id=request.id, error=Problem(error.message, error.hint))
        except BrokenLineError:
            child.kill()
        self._child = None
        return _refused(request.id, _why_gone(child, given_up=request.id in self._given_up))

    def _living_child(self) -> _Reader:
        if self._child is None or not self._child.alive:
            self._child = start_reader()
        return self._child


def _end(child: _Reader) -> None:
    """Asked first, and killed where it doesn't listen: native code may not."""
    child.end()
    last = threading.Timer(CLEARING_S, child.kill)
    last.daemon = True
    last.start()


def _refused(request_id: int, message: str) -> Refused:
    return Refused(id=request_id, error=Problem(message, "Your file is unchanged."))


def _why_gone(child: _Reader, given_up: bool) -> str:
    child.wait(5)
    return "Stopped." if given_up else f"Reading stopped: the reader ended ({child.end_in_words()})."
