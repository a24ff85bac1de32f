"""A reader or an engine for one command of the terminal."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from qlora_studio.config import places
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.errors import StudioError
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.child import CLEARING_S, Child, start_engine, start_reader
from qlora_studio.protocol.lines import BrokenLineError

A = TypeVar("A", bound=reading.Answer)
E = TypeVar("E", bound=events.Event)
_WRITING = (commands.Train, commands.Export, commands.MakeSampleModel)
_SAVING_S = 60.0  # that an engine has to save, or to clear away what it was writing
_ENDING_S = 3.0  # that one has which wrote nothing; it may be loading libraries, and hears nothing then

Told = Callable[[str, int, int], None]  # words, done, total (0: unknown)


def _silent(words: str, done: int, total: int) -> None:
    return None


class RefusedError(StudioError):
    """The reader says no, and can be asked the next thing."""


class Reader:
    """Asks one thing after another. The process ends with the `with` block."""

    def __init__(self, told: Told = _silent) -> None:
        self._told = told
        self._ids = itertools.count(1)
        self._child = start_reader()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """After Ctrl+C in the middle of a job what it had written is cleared away: that may be a gigabyte."""
        try:
            if kind is not None and not issubclass(kind, StudioError):
                self._child.end()
                self._child.wait(CLEARING_S)
        finally:  # also where a second Ctrl+C doesn't wait for that
            self._child.kill()
            self._child.wait()

    def ask(self, answer: type[A], request: type[reading.Request], **fields: Any) -> A:
        """Raises: RefusedError where the reader refuses, StudioError where it ends."""
        request_id = next(self._ids)
        self._child.say(request(id=request_id, **fields))  # type: ignore[arg-type]  # one of ReaderRequest
        try:
            for heard in self._child.heard():
                if isinstance(heard, answer):
                    return heard
                if isinstance(heard, reading.Progress):
                    self._told(heard.words, heard.done, heard.total)
                elif isinstance(heard, reading.Refused):
                    raise RefusedError(heard.error.message, heard.error.hint)
        except BrokenLineError as error:
            raise StudioError("The reader said something that is no message; it was ended.") from error
        raise StudioError(
            f"The reader ended ({self._child.end_in_words()}).", hint=f"Its log: {self._child.log}"
        )


class Engine:
    """Told one command; its events are heard until the end. It starts while others are asked."""

    def __init__(self, told: Told = _silent) -> None:
        self._told = told
        self._ids = itertools.count(1)
        self._told_anything = self._writes = False
        self.was_interrupted = False  # by Ctrl+C, in place of an end
        self._child: Child[commands.EngineCommand, events.EngineEvent] = start_engine()
        self._heard = self._child.heard()
        self._ready: events.EngineReady | None = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._told_anything:  # it may be loading libraries for nothing
            self._child.kill()
        self._child.hang_up()
        if self._child.wait(_SAVING_S if self._writes else _ENDING_S) is None:
            self._child.kill()
            self._child.wait()

    @property
    def ready(self) -> events.EngineReady:
        """Its first word, heard by now or waited for. Raises: StudioError where it ends before."""
        return self._ready or self.wait_for(events.EngineReady)

    def say(self, command: commands.EngineCommand) -> None:
        """A command without an answer of its own."""
        self._told_anything = True
        self._writes |= isinstance(command, _WRITING)
        self._child.say(command)

    def events(self) -> Iterator[events.EngineEvent]:
        """All that the engine says. Raises: StudioError where it ends by itself."""
        try:
            for event in self._heard:
                if isinstance(event, events.LoadingProgress):
                    self._told(event.words, event.done, event.total)
                elif isinstance(event, events.EngineReady):
                    self._ready = event
                if not isinstance(event, events.Alive):
                    yield event
        except BrokenLineError as error:
            self._child.kill()
            raise StudioError("The engine said something that is no message; it was ended.") from error
        raise StudioError(
            f"The engine ended ({self._child.end_in_words()}).", hint=f"Its log: {self._child.log}"
        )

    def command(self, kind: type[commands.Command], **fields: Any) -> int:
        """Says a command that has an id, and gives the id back."""
        command_id = next(self._ids)
        self.say(kind(id=command_id, **fields))  # type: ignore[arg-type]  # one of EngineCommand
        return command_id

    def wait_for(self, kind: type[E]) -> E:
        """The next event of a kind. Raises: StudioError where the command failed instead."""
        for event in self.events():
            if isinstance(event, kind):
                return event
            if isinstance(event, events.CommandFailed):
                raise StudioError(event.error.message, event.error.hint)
        raise AssertionError("events() ends by raising")

    def make_sample_model(self) -> None:
        """Turns the bundled model into a folder unless that was done before."""
        if not (places.sample_model_folder() / "config.json").exists():
            self.command(commands.MakeSampleModel)
            self.wait_for(events.SampleModelReady)

    def need_model(self, model: str) -> None:
        """The bundled model is made on its first use."""
        if model == SAMPLE:
            self.make_sample_model()

    def expect_training(self) -> None:
        """It gets ready for a run while that is prepared. Nothing is lost where it is ended meanwhile."""
        self._child.say(commands.ExpectTraining())

    @contextmanager
    def stopped_by_ctrl_c(self, asked: Callable[[], None]) -> Iterator[Callable[[], bool]]:
        """Within the block the first Ctrl+C calls `asked` once; the second ends the program."""
        seen: list[int] = []

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            seen.append(number)
            self.was_interrupted = True
            if len(seen) > 1:
                raise KeyboardInterrupt
            asked()

        before = {number: signal.signal(number, on_interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield lambda: bool(seen)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
