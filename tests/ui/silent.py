"""An engine and readers that say only what a test has them say: the state above them is the real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from PySide6.QtCore import QObject, Signal

from qlora_studio.protocol import commands, reading
from qlora_studio.protocol.events import EngineEvent, Problem
from qlora_studio.protocol.reading import Progress, Refused
from qlora_studio.state.app import AppState

C = TypeVar("C", bound=commands.Command)
R = TypeVar("R", bound=reading.Request)


class SilentEngineThread(QObject):
    """Stands where the thread of the engine is. said: every command, in order."""

    heard = Signal(object)
    ended = Signal(str)
    pid = None

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.said: list[commands.EngineCommand] = []
        self.started = self.hung_up = self.killed = False

    def start(self) -> None:
        self.started = True

    def say(self, command: commands.EngineCommand) -> None:
        self.said.append(command)

    def hang_up(self) -> None:
        self.hung_up = True

    def kill(self) -> None:
        self.killed = True

    def wait(self, milliseconds: int = 0) -> bool:
        return True

    def end(self, reason: str = "") -> None:
        """The process is gone; empty: it was asked to end."""
        self.ended.emit(reason)


class SilentReaderThread(QObject):
    """Stands where the thread of a reader is. asked: the requests that wait for an answer."""

    heard = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.asked: list[reading.ReaderRequest] = []
        self.given_up: list[int] = []
        self._runs = False

    def start(self) -> None:
        self._runs = True

    def isRunning(self) -> bool:
        return self._runs

    def ask(self, request: reading.ReaderRequest) -> None:
        self.asked.append(request)

    def give_up(self, request_id: int) -> None:
        self.given_up.append(request_id)
        self.asked = [request for request in self.asked if request.id != request_id]

    def end_if_silent(self) -> None: ...

    def end(self) -> None:
        self._runs = False

    def wait(self) -> bool:
        return True


@dataclass
class Silent:
    """What the children are told and asked, and what they say: `silent.hear(RunStarted(...))`."""

    engines: list[SilentEngineThread] = field(default_factory=list)
    readers: list[SilentReaderThread] = field(default_factory=list)

    # The engine

    def said(self, kind: type[C]) -> list[C]:
        """Every command of a kind, whichever engine it was said to."""
        return [command for engine in self.engines for command in engine.said if isinstance(command, kind)]

    def last_said(self, kind: type[C]) -> C:
        """The newest command of a kind."""
        return self.said(kind)[-1]

    def hear(self, event: EngineEvent) -> None:
        """The engine says this."""
        self.engines[-1].heard.emit(event)

    # The readers

    def asked(self, kind: type[R]) -> list[R]:
        """The requests of a kind that wait for their answer."""
        return [request for reader in self.readers for request in reader.asked if isinstance(request, kind)]

    def answer(self, request: type[reading.Request], answer: type[reading.Answer], **fields: Any) -> None:
        """The oldest request of a kind is answered."""
        reader, asked = self._taken(request)
        reader.heard.emit(answer(id=asked.id, **fields))

    def refuse(self, request: type[reading.Request], message: str, hint: str = "", **more: str) -> None:
        """The oldest request of a kind is refused."""
        reader, asked = self._taken(request)
        reader.heard.emit(Refused(id=asked.id, error=Problem(message, hint), **more))

    def tell_progress(self, request: type[reading.Request], done: int, total: int, words: str) -> None:
        """The oldest request of a kind goes on."""
        reader, asked = self._waiting(request)
        reader.heard.emit(Progress(id=asked.id, done=done, total=total, words=words))

    def _waiting(self, kind: type[reading.Request]) -> tuple[SilentReaderThread, reading.ReaderRequest]:
        return next(
            (reader, asked) for reader in self.readers for asked in reader.asked if isinstance(asked, kind)
        )

    def _taken(self, kind: type[reading.Request]) -> tuple[SilentReaderThread, reading.ReaderRequest]:
        reader, asked = self._waiting(kind)
        reader.asked.remove(asked)
        return reader, asked


def silence(monkeypatch: pytest.MonkeyPatch) -> Silent:
    """From now on no child process is started; what stands for it is in the answer."""
    silent = Silent()

    def engine(parent: QObject | None = None) -> SilentEngineThread:
        silent.engines.append(SilentEngineThread(parent))
        return silent.engines[-1]

    def reader(parent: QObject | None = None) -> SilentReaderThread:
        silent.readers.append(SilentReaderThread(parent))
        return silent.readers[-1]

    monkeypatch.setattr("qlora_studio.state.engine.EngineThread", engine)
    monkeypatch.setattr("qlora_studio.state.reader.ReaderThread", reader)
    return silent


@contextmanager
def silent_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[AppState, Silent]]:
    """The whole state over silent children, closed at the end."""
    silent = silence(monkeypatch)
    app = AppState()
    monkeypatch.setattr(app.machine, "start", lambda: None)
    try:
        yield app, silent
    finally:
        app.engine.run = None
        app.close()
