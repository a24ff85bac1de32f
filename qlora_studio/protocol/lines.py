"""Messages as JSON lines: strict on the way in, one line on the way out (S13)."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from qlora_studio.protocol.commands import EngineCommand
from qlora_studio.protocol.events import EngineEvent
from qlora_studio.protocol.reading import ReaderAnswer, ReaderRequest

LONGEST_LINE = 1_000_000  # bytes; anything longer ends the child, never the window

# Halves of surrogate pairs stand in file names that are no UTF-8 and in foreign JSON, as \ud800. UTF-8 has
# no place for them: in a line that begins with a blank they stand as the last letters for private use.
_HALVES = {half: half + 0x102000 for half in range(0xD800, 0xE000)}
_BACK = {letter: half for half, letter in _HALVES.items()}
_WITH_HALVES = b" "

T = TypeVar("T")


class BrokenLineError(ValueError):
    """A line that is no message: too long, no JSON, an unknown type or a wrong value."""


class Lines(Generic[T]):
    """Messages of one direction of one pipe."""

    def __init__(self, union: Any) -> None:
        self._union = union
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(union)
        self._encoder = msgspec.json.Encoder()

    def decode(self, line: bytes) -> T:
        """Raises: BrokenLineError."""
        if len(line) > LONGEST_LINE:
            raise BrokenLineError(f"a line of {len(line):,} bytes")
        try:
            if line.startswith(_WITH_HALVES):
                message: T = msgspec.convert(_translated(msgspec.json.decode(line), _BACK), self._union)
                return message
            return self._decoder.decode(line)
        except (
            msgspec.MsgspecError,
            UnicodeDecodeError,
            RecursionError,
        ) as error:  # a DecodeError is one too
            raise BrokenLineError(f"{error}: {line[:200]!r}") from error

    def encode(self, message: T) -> bytes:
        """One line with its end. Raises: BrokenLineError where it is too long to be read."""
        try:
            line = self._encoder.encode(message) + b"\n"
        except UnicodeEncodeError:
            said = _translated(msgspec.to_builtins(message), _HALVES)
            line = _WITH_HALVES + self._encoder.encode(said) + b"\n"
        if len(line) > LONGEST_LINE:
            raise BrokenLineError(f"{type(message).__name__} takes {len(line):,} bytes")
        return line


def _translated(value: Any, table: dict[int, int]) -> Any:
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, dict):
        return {_translated(key, table): _translated(item, table) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_translated(item, table) for item in value]
    return value


COMMANDS: Lines[EngineCommand] = Lines(EngineCommand)
EVENTS: Lines[EngineEvent] = Lines(EngineEvent)
REQUESTS: Lines[ReaderRequest] = Lines(ReaderRequest)
ANSWERS: Lines[ReaderAnswer] = Lines(ReaderAnswer)
