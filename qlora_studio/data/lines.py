"""The lines of a text file: they end at LF, CRLF or CR, and at nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qlora_studio.data.limits import MAX_ROW_BYTES
from qlora_studio.data.source_file import CHUNK_BYTES
from qlora_studio.data.text_file import TextFile

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\n|\Z)")  # a CR at the very end may be half of a CRLF


@dataclass(frozen=True)
class LineChunk:
    """Whole lines that follow each other; `block` begins at `offset` in the file.

    A line longer than a row may be can be cut off behind that limit; then it stands alone.
    """

    block: bytes
    offset: int

    def lines(self) -> list[bytes]:
        """With their ends."""
        return self.block.splitlines(keepends=True)  # of bytes: at LF, CRLF and CR only


@dataclass(frozen=True, slots=True)
class Line:
    """One line with its end, its number from 1, and where it begins in bytes."""

    text: bytes
    number: int
    offset: int


def numbered_lines(text: TextFile) -> Iterator[Line]:
    """All lines, one after the other."""
    number = 0
    for chunk in line_chunks(text):
        offset = chunk.offset
        for line in chunk.lines():
            number += 1
            yield Line(line, number, offset)
            offset += len(line)


def line_chunks(text: TextFile) -> Iterator[LineChunk]:
    """All lines, some megabytes at a time."""
    offset, size = text.start, CHUNK_BYTES
    while buffer := text.source.read_lines(offset, size):
        at_the_end = len(buffer) < size
        end = len(buffer) if at_the_end or buffer.endswith(b"\n") else _end_of_cr_lines(buffer)
        if end:
            yield LineChunk(buffer[:end], offset)
            offset, size = offset + end, CHUNK_BYTES
        elif len(buffer) > MAX_ROW_BYTES:
            yield LineChunk(buffer[: MAX_ROW_BYTES + 1], offset)
            offset, size = _end_of_line(text, offset + MAX_ROW_BYTES), CHUNK_BYTES
        else:
            size *= 2  # the rest of the line is read again with it


def count_line_ends(text: bytes) -> int:
    """How many lines end in `text`."""
    ends = text.count(b"\n")
    if b"\r" in text:
        ends += text.count(b"\r") - text.count(b"\r\n")
    return ends


def _end_of_cr_lines(buffer: bytes) -> int:
    return buffer.rfind(b"\r", 0, max(0, len(buffer) - 1)) + 1


def _end_of_line(text: TextFile, offset: int) -> int:
    """Where the line that goes on at `offset` ends."""
    while buffer := text.source.read(offset, CHUNK_BYTES):
        if end := _LINE_END.search(buffer):
            return offset + end.end()
        offset += max(1, len(buffer) - buffer.endswith(b"\r"))
    return offset
