"""The records of a JSON file: its lines, or the elements of its array, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qlora_studio.data.limits import MAX_ROW_BYTES
from qlora_studio.data.lines import count_line_ends, numbered_lines
from qlora_studio.data.record import named
from qlora_studio.data.strict_json import JsonError, parse_json
from qlora_studio.data.text_file import TextFile
from qlora_studio.errors import StudioError


@dataclass(frozen=True, slots=True)
class JsonText:
    """A record as it stands in the file: text, number of the line it begins in, offset in bytes."""

    text: bytes
    line: int
    offset: int


def json_lines(text: TextFile) -> Iterator[JsonText]:
    """A record a line; blank lines are none."""
    for line in numbered_lines(text):
        if not line.text.isspace():
            yield JsonText(line.text, line.number, line.offset)


def json_elements(text: TextFile, array_at: int) -> Iterator[JsonText]:
    """A record an element of the array at this offset; a record a value, where no array begins there.

    Raises: StudioError where the file ends before the array does.
    """
    return _ElementScanner(text, array_at).elements()


# A whole string | a mark | the beginning of a string that goes on in the next chunk
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|([\[\]{},])|(")', re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*+")
_PARTS = {"test", "validation", "valid", "val", "dev", "eval", "evaluation"}  # beside "train"
_DEEPEST = 1_000  # far over what makes a row unusable; here to end a file of brackets
_LONGEST_ELEMENT = 2 * MAX_ROW_BYTES  # behind it a quote was surely never closed


class _ElementScanner:
    """Finds where elements begin and end; whether they are valid is the parser's affair."""

    def __init__(self, text: TextFile, array_at: int) -> None:
        head = text.source.read(text.start, array_at - text.start)
        self._text = text
        self._chunks = text.source.chunks(array_at)
        self._nested = bool(head.strip())  # the array stands inside of an object
        self._buffer = b""
        self._offset = array_at  # of the buffer's first byte
        self._start = 0  # in the buffer: where the element in hand begins
        self._scanned = 0  # in the buffer: what was looked at
        self._counted = 0  # in the buffer: what of its lines is in `_line`
        self._line = 1 + count_line_ends(head)
        self._depth = 0
        self._in_array = False
        self._any = False  # whether there was an element
        self._closed = False
        self._found: list[JsonText] = []

    def elements(self) -> Iterator[JsonText]:
        self._read_on()
        self._in_array = self._buffer[:1] == b"["
        self._start = self._scanned = int(self._in_array)
        while True:
            self._scan()
            yield from self._hand_over()
            if self._closed or not self._read_on():
                break
        self._end()
        yield from self._hand_over()

    def _read_on(self) -> bool:
        chunk = next(self._chunks, b"")
        self._line += count_line_ends(self._buffer[self._counted : self._start])
        self._counted = 0
        self._offset += self._start
        self._buffer = self._buffer[self._start :] + chunk
        self._scanned -= self._start
        self._start = 0
        if len(self._buffer) > _LONGEST_ELEMENT:
            raise StudioError(
                f"{self._text.name}: the row that begins in line {self._line_in_hand():,} is longer than "
                f"{_LONGEST_ELEMENT / 1e6:.0f} MB, or one of its quotes is never closed.",
                hint="Look at that line in a text editor.",
            )
        return bool(chunk)

    def _scan(self) -> None:
        for token in _TOKEN.finditer(self._buffer, self._scanned):
            self._scanned = token.end()
            if token.lastindex is None:
                continue
            at = token.start()
            mark = self._buffer[at : at + 1]
            if mark == b'"':
                self._scanned = at
                return
            if mark in b"[{":
                self._depth += 1
                if self._depth > _DEEPEST:
                    raise StudioError(
                        f"{self._text.name}: the row that begins in line {self._line_in_hand():,} is nested "
                        f"deeper than {_DEEPEST:,}.",
                        hint="This file may be made to stop programs that read it.",
                    )
            elif self._depth and mark != b",":
                self._depth -= 1
                if not self._depth and not self._in_array:
                    self._take(at + 1, at + 1)
            elif not self._depth and self._in_array and mark == b",":
                self._take(at, at + 1)
            elif not self._depth and self._in_array and mark == b"]":
                if self._any or self._buffer[self._start : at].strip():
                    self._take(at, at + 1)
                self._closed = True
                self._start = at + 1
                return
        self._scanned = len(self._buffer)

    def _line_in_hand(self) -> int:
        space = _SPACE.match(self._buffer, self._start)
        return self._line + count_line_ends(self._buffer[self._counted : space.end() if space else 0])

    def _take(self, end: int, following: int) -> None:
        space = _SPACE.match(self._buffer, self._start, end)
        start = space.end() if space else self._start
        self._line += count_line_ends(self._buffer[self._counted : start])
        self._counted = start
        self._found.append(JsonText(self._buffer[start:end], self._line, self._offset + start))
        self._start = following
        self._any = True

    def _hand_over(self) -> list[JsonText]:
        found, self._found = self._found, []
        return found

    def _end(self) -> None:
        """What stands behind the last element."""
        if self._in_array and not self._closed:
            raise StudioError(
                f"{self._text.name} ends in the middle: the list that it holds is not closed. "
                f"Its last row begins in line {self._line_in_hand():,}. It seems cut off.",
                hint="Copy or download it again.",
            )
        rest = self._buffer[self._start :].strip()
        while not rest and (chunk := next(self._chunks, b"")):
            rest = chunk.strip()
        if not self._in_array and rest:
            self._take(len(self._buffer), len(self._buffer))
        elif rest and not (self._nested and self._ends_the_object(rest)):
            raise StudioError(
                f"{self._text.name}: something follows the end of the list, near line "
                f"{self._line_in_hand():,}.",
                hint="A JSON file holds one list of objects, or one object a line.",
            )

    def _ends_the_object(self, rest: bytes) -> bool:
        """Whether other keys follow, without rows. Raises: StudioError where one has some: they'd be lost."""
        try:
            others = parse_json(b'{"":0' + rest)
        except (JsonError, UnicodeDecodeError):
            return False
        for name, value in others.items():
            if isinstance(value, list) and value and (name in _PARTS or isinstance(value[0], dict)):
                raise StudioError(
                    f"{self._text.name} holds several lists of rows; {named(name)} is the second.",
                    hint="Save each list in a file of its own.",
                )
        return True
