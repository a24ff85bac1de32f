"""What a file gives only when it is turned into something else from its beginning on, read by position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from qlora_studio.data.source_file import CHUNK_BYTES, Feed, SourceFile

COPIED_BYTES = (
    100_000_000  # of all beginnings together: to be read again, and to show a row as it stands there
)

Turn = Callable[[Feed], Iterator[bytes]]


class TurnedFile:
    """What `turn` makes of a file. Its beginning is kept at `copy`; farther back it is turned anew."""

    def __init__(self, source: SourceFile, turn: Turn, copy: Path, copied_bytes: int = COPIED_BYTES) -> None:
        """copied_bytes: about how many are kept."""
        self._source = source
        self._turn = turn
        self._copy = copy
        self._copied_bytes = copied_bytes
        self._copied = 0
        self._opened: BinaryIO | None = None
        self._pieces: Iterator[bytes] | None = None
        self._feed = Feed(source)
        self._window = bytearray()
        self._window_at = 0
        self.turned = 0  # bytes that were made of the file, at most
        copy.write_bytes(b"")

    @property
    def done(self) -> int:
        """How many bytes of the file itself were read."""
        return self._feed.at

    def rest(self) -> None:
        """Takes neither memory nor a descriptor until something is read again."""
        if self._opened is not None:
            self._opened.close()
        self._opened = self._pieces = None
        self._window = bytearray()

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end. Raises: StudioError where the file can't be turned."""
        if offset + size <= self._copied:
            self._file.seek(offset)
            return self._file.read(size)
        if self._pieces is None or offset < self._window_at:
            self._begin()
        assert self._pieces is not None
        self._drop(offset)
        while self._window_at + len(self._window) < offset + size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._take(piece)
            self._drop(offset)
        start = max(0, offset - self._window_at)
        with memoryview(self._window) as window:
            return bytes(window[start : start + size])

    def read_lines(self, offset: int, size: int) -> bytes:
        """As `read`, but without what stands behind the last LF, where there is one."""
        buffer = self.read(offset, size)
        return buffer[: buffer.rfind(b"\n") + 1] or buffer

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` to the end."""
        while chunk := self.read(offset, CHUNK_BYTES):
            yield chunk
            offset += len(chunk)

    @property
    def _file(self) -> BinaryIO:
        if self._opened is None:
            self._opened = self._copy.open("r+b", buffering=0)
        return self._opened

    def _begin(self) -> None:
        self._feed = Feed(self._source)
        self._pieces = self._turn(self._feed)
        self._window.clear()
        self._window_at = 0

    def _take(self, piece: bytes) -> None:
        end = self._window_at + len(self._window)
        if end == self._copied < self._copied_bytes:
            self._file.seek(end)
            self._copied += self._file.write(piece)
        self._window += piece
        self.turned = max(self.turned, end + len(piece))

    def _drop(self, offset: int) -> None:
        """What stands before `offset` in the window."""
        before = min(len(self._window), max(0, offset - self._window_at))
        del self._window[:before]
        self._window_at += before
