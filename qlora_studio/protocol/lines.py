"""Messages as JSON lines: strict on the way in, one line on the way out (S13)."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from qlora_studio.protocol.commands import EngineCommand
from qlora_studio.protocol.events import EngineEvent
from qlora_studio.protocol.reading import ReaderAnswer, ReaderRequest

LONGEST_LINE = 1_000_000  # bytes; anything longer ends the child, never the window

T = TypeVar("T")


class BrokenLineError(ValueError):
    """A line that is no message: too long, no JSON, an unknown type or a wrong value."""


class Lines(Generic[T]):
    """Messages of one direction of one pipe."""

    def __init__(self, union: Any) -> None:
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(union)
        self._encoder = msgspec.json.Encoder()

    def decode(self, line: bytes) -> T:
        """Raises: BrokenLineError."""
        if len(line) > LONGEST_LINE:
            raise BrokenLineError(f"a line of {len(line):,} bytes")
        try:
            return self._decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:  # a DecodeError is one too
            raise BrokenLineError(f"{error}: {line[:200]!r}") from error

    def encode(self, message: T) -> bytes:
        """One line with its end. Raises: BrokenLineError where it is too long to be read."""
        line = self._encoder.encode(message) + b"\n"
        if len(line) > LONGEST_LINE:
            raise BrokenLineError(f"{type(message).__name__} takes {len(line):,} bytes")
        return line


COMMANDS: Lines[EngineCommand] = Lines(EngineCommand)
EVENTS: Lines[EngineEvent] = Lines(EngineEvent)
REQUESTS: Lines[ReaderRequest] = Lines(ReaderRequest)
ANSWERS: Lines[ReaderAnswer] = Lines(ReaderAnswer)
