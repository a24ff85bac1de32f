"""What the engine is told: commands wait here for their turn, and wishes reach the work that is going on."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from typing import BinaryIO

from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.commands import (
    EngineCommand,
    Heartbeat,
    PauseTraining,
    Quit,
    SaveNow,
    StopEvaluating,
    StopExport,
    StopGenerating,
    StopMeasuring,
    StopTraining,
    Train,
)
from qlora_studio.protocol.lines import COMMANDS, LONGEST_LINE, BrokenLineError

SILENCE_S = 30.0  # without a heartbeat, once there was one (R7)
_LOOK_S = 1.0


class Inbox:
    """Filled by a thread that reads lines; emptied by the main thread, one command at a time."""

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[EngineCommand | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._wish = Wish.NOTHING
        self._stopped: set[int] = set()  # ids of replies, evaluations, exports and measurements
        self._last_heartbeat: float | None = None
        self._hung_up = threading.Event()
        self.broken = False

    def read(self, lines: BinaryIO) -> None:
        """Until the input ends, or is no longer commands."""
        try:
            while line := lines.readline(LONGEST_LINE + 1):
                self.take(COMMANDS.decode(line))
        except BrokenLineError:
            traceback.print_exc()
            self.broken = True
        except (OSError, ValueError):  # the pipe is gone
            traceback.print_exc()
        self.hang_up()

    def take(self, command: EngineCommand) -> None:
        """A wish at once; anything else when its turn comes."""
        if isinstance(command, Heartbeat):
            self._last_heartbeat = time.monotonic()
        elif isinstance(command, Quit):
            self.hang_up()
        elif isinstance(command, StopGenerating | StopEvaluating | StopExport | StopMeasuring):
            self._stopped.add(command.id)
        elif isinstance(command, StopTraining):
            self._ask(Wish.STOP)
        elif isinstance(command, PauseTraining):
            self._ask(Wish.PAUSE)
        elif isinstance(command, SaveNow):
            self._ask(Wish.SAVE)
        else:
            if isinstance(command, Train):
                self._ask(Wish.NOTHING)  # what was wished of an earlier run is over
            self._commands.put(command)

    def hang_up(self) -> None:
        """Nobody is there any more: what is going on ends, saved."""
        self._hung_up.set()
        self._commands.put(None)

    @property
    def is_asked(self) -> bool:
        """Whether a command waits, or all is over."""
        return self.ends or not self._commands.empty()

    def next_command(self) -> EngineCommand | None:
        """Waits for it. None: save and exit."""
        while not self.ends:
            try:
                return self._commands.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
        return None

    @property
    def ends(self) -> bool:
        """Whether the window is gone, or silent for too long."""
        heard = self._last_heartbeat
        return self._hung_up.is_set() or (heard is not None and time.monotonic() - heard > SILENCE_S)

    def wish(self) -> Wish:
        """What is wanted of the run in training; asked after each update, told once."""
        if self.ends:
            return Wish.PAUSE
        with self._lock:
            wish = self._wish
            if wish is Wish.SAVE:
                self._wish = Wish.NOTHING
            return wish

    def is_stopped(self, command_id: int) -> bool:
        """Whether this reply, evaluation, export or measurement is no longer wanted."""
        return self.ends or command_id in self._stopped

    def _ask(self, wish: Wish) -> None:
        with self._lock:
            if wish is Wish.SAVE and self._wish is not Wish.NOTHING:
                return  # stopping and pausing save as well
            self._wish = wish
