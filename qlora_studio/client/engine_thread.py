"""The thread that owns the engine process: commands go in, events come out as signals."""

from __future__ import annotations

import queue
import threading

from PySide6.QtCore import QObject, QThread, Signal

from qlora_studio.errors import StudioError
from qlora_studio.protocol.child import Child, start_engine
from qlora_studio.protocol.commands import EngineCommand
from qlora_studio.protocol.events import EngineEvent
from qlora_studio.protocol.lines import BrokenLineError


class EngineThread(QThread):
    """One engine process from its start to its end.

    heard: every event, in order
    ended: why the process is gone, in words; empty where it was asked to end
    """

    heard = Signal(object)
    ended = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._to_say: queue.SimpleQueue[EngineCommand | None] = queue.SimpleQueue()
        self._child: Child[EngineCommand, EngineEvent] | None = None
        self._asked_to_end = self._killed = False

    def say(self, command: EngineCommand) -> None:
        """Returns at once: a pipe that the engine doesn't empty must never hold up the window."""
        self._to_say.put(command)

    def hang_up(self) -> None:
        """The engine saves what it does and exits."""
        self._asked_to_end = True
        self._to_say.put(None)

    def kill(self) -> None:
        """At once, for an engine that doesn't answer; one that is just being started too."""
        self._killed = True
        if self._child is not None:
            self._child.kill()

    @property
    def pid(self) -> int | None:
        """Of the engine process, once it was started."""
        return self._child.pid if self._child else None

    def run(self) -> None:
        """Starts the engine and hears it out."""
        try:
            child = start_engine()
        except StudioError as error:
            self.ended.emit(str(error))
            return
        self._child = child
        if self._killed:
            child.kill()
        writer = threading.Thread(target=self._write, args=(child,), name="engine-input", daemon=True)
        writer.start()
        reason = self._hear(child)
        self._to_say.put(None)
        writer.join()
        self.ended.emit(reason)

    def _hear(self, child: Child[EngineCommand, EngineEvent]) -> str:
        try:
            for event in child.heard():
                self.heard.emit(event)  # emitted here, received on the GUI thread
        except BrokenLineError as error:
            child.kill()
            return f"it said something that is no message: {error}"
        words = child.end_in_words()
        return "" if self._asked_to_end or words == "exit status 0" else words

    def _write(self, child: Child[EngineCommand, EngineEvent]) -> None:
        while (command := self._to_say.get()) is not None:
            if not child.say(command):
                return
        child.hang_up()
