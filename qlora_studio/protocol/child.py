"""Starts a child process and talks to it in lines; knows nothing of Qt."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Generic, TypeVar

from qlora_studio.config.child_environment import APP_FOLDER, child_environment
from qlora_studio.config.machine_check import require_recent
from qlora_studio.config.places import log_folder
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import EngineCommand
from qlora_studio.protocol.events import EngineEvent
from qlora_studio.protocol.lines import ANSWERS, COMMANDS, EVENTS, LONGEST_LINE, REQUESTS, Lines
from qlora_studio.protocol.reading import ReaderAnswer, ReaderRequest

CLEARING_S = 1.5  # that a reader has to clear away what it began; then it is killed (D1: within 2 s)

_BOTH = ("numpy", "msgspec", "tokenizers", "jinja2")
_ENGINE_LIBRARIES = ("torch", "transformers", "bitsandbytes", "peft", "accelerate", "safetensors", *_BOTH)
_READER_LIBRARIES = ("datasets", "pyarrow", *_BOTH)

Said = TypeVar("Said")
Heard = TypeVar("Heard")


class Child(Generic[Said, Heard]):
    """One child process: `Said` goes in, `Heard` comes out. Ends with its input, or is killed."""

    def __init__(self, module: str, said: Lines[Said], heard: Lines[Heard]) -> None:
        self._said = said
        self._heard = heard
        self._writing = threading.Lock()
        self.log = _log_file(module)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=APP_FOLDER,
                env=child_environment(),
                start_new_session=True,  # Ctrl+C in a terminal reaches us alone; we ask the child to save
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def say(self, message: Said) -> bool:
        """False where the child is gone; `heard` then tells why."""
        line = self._said.encode(message)
        with self._writing:
            try:
                _input_of(self._process).write(line)
                _input_of(self._process).flush()
            except (BrokenPipeError, ValueError, OSError):
                return False
        return True

    def heard(self) -> Iterator[Heard]:
        """Every message until the child ends. Raises: BrokenLineError at a line that is none."""
        output = self._process.stdout
        assert output is not None
        while line := output.readline(LONGEST_LINE + 1):
            yield self._heard.decode(line)

    def hang_up(self) -> None:
        """End of input: the child saves and exits."""
        with self._writing:
            try:
                _input_of(self._process).close()
            except OSError:
                return

    def end(self) -> None:
        """Now, but it clears away what it had begun, where the system can ask a process to."""
        self._process.terminate()

    def kill(self) -> None:
        """At once. What it was writing is lost; what was finished is not."""
        self._process.kill()

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit status, or None where it still runs after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end_in_words(self) -> str:
        """Why the child is gone, for a person."""
        status = self._process.wait()
        if status >= 0:
            return f"exit status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return "killed by the system, memory?" if name == "SIGKILL" else name


def start_engine() -> Child[EngineCommand, EngineEvent]:
    """The process that holds the device. Raises: StudioError where it can't be started, or must not (S14)."""
    require_recent(_ENGINE_LIBRARIES)
    return _start("qlora_studio.engine", COMMANDS, EVENTS)


def start_reader() -> Child[ReaderRequest, ReaderAnswer]:
    """The disposable process that opens foreign bytes. Raises: StudioError as `start_engine`."""
    require_recent(_READER_LIBRARIES)
    return _start("qlora_studio.reader", REQUESTS, ANSWERS)


def _start(module: str, said: Lines[Said], heard: Lines[Heard]) -> Child[Said, Heard]:
    try:
        return Child(module, said, heard)
    except OSError as error:
        raise StudioError(
            f"The {module.rpartition('.')[2]} could not be started: {error.strerror}.",
            hint="Free some memory or disk space and try again.",
        ) from error


def _log_file(module: str) -> Path:
    folder = log_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StudioError(
            f"The folder for logs can't be made: {folder} ({error.strerror}).",
            hint="QLORA_STUDIO_HOME names another place, if that one can't be mended.",
        ) from error
    return folder / f"{module.rpartition('.')[2]}.log"


def _input_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin
