"""A file from outside, opened without trusting it: a regular file, read in chunks, never written to."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from qlora_studio.data.limits import MAX_TEXT_BYTES
from qlora_studio.data.path_text import path_text
from qlora_studio.errors import StudioError

CHUNK_BYTES = 4 << 20
_TAIL_BYTES = 1 << 16  # in which a line of most files ends

Told = Callable[[int, int, str], None]  # done, total (0: unknown), words for a person


class SourceFile:
    """An open regular file. Its bytes are read by position, so that several readers can share it."""

    def __init__(self, path: Path) -> None:
        """Raises: StudioError naming the file, where it can't be opened or is no regular file."""
        self.path = path
        self.name = path_text(path)
        self._descriptor = _open_regular_file(path)
        self.status = os.fstat(self._descriptor)
        self.size = self.status.st_size
        self.modified_ns = self.status.st_mtime_ns
        if self.size > MAX_TEXT_BYTES:
            self.close()
            raise StudioError(
                f"{self.name} is too large: {self.size / 1e9:.1f} GB of at most {MAX_TEXT_BYTES / 1e9:.0f}.",
                hint="Split it into smaller files.",
            )

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The file may be closed twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end. Raises: StudioError where the disk fails."""
        parts = []
        try:
            while size > 0 and (part := _read_at(self._descriptor, offset, size)):
                parts.append(part)
                offset += len(part)
                size -= len(part)
        except OSError as error:
            raise StudioError(f"{self.name} can't be read: {error.strerror}.") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_lines(self, offset: int, size: int) -> bytes:
        """As `read`, but without what stands behind the last LF, where there is one."""
        tail_at = offset + max(0, size - _TAIL_BYTES)
        if end := self.read(tail_at, offset + size - tail_at).rfind(b"\n") + 1:
            return self.read(offset, tail_at + end - offset)  # no byte of it is copied again
        buffer = self.read(offset, size)
        return buffer[: buffer.rfind(b"\n") + 1] or buffer

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` to the end."""
        while chunk := self.read(offset, CHUNK_BYTES):
            yield chunk
            offset += len(chunk)

    def as_stream(self) -> BinaryIO:
        """The same open file for a library that wants a stream; it is closed on its own."""
        return os.fdopen(os.dup(self._descriptor), "rb")

    def mapped(self) -> mmap.mmap:
        """The same bytes in memory, as they are touched. Raises: StudioError."""
        try:
            return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise StudioError(f"{self.name} can't be read: {error}.") from error

    def read_into(self, buffer: bytearray, offset: int) -> int:
        """Some bytes at the beginning of `buffer`, how many; 0 at the end. Raises: StudioError."""
        try:
            if hasattr(os, "preadv"):
                return os.preadv(self._descriptor, [buffer], offset)
            part = _read_at(self._descriptor, offset, len(buffer))
        except OSError as error:
            raise StudioError(f"{self.name} can't be read: {error.strerror}.") from error
        buffer[: len(part)] = part
        return len(part)

    def unchanged(self) -> bool:
        """Whether size and time of change are as they were when it was opened."""
        status = os.fstat(self._descriptor)
        return (status.st_size, status.st_mtime_ns) == (self.size, self.modified_ns)


class Feed:
    """A file from its beginning on. `at`: how many of its bytes were taken."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self.name = source.name
        self.at = 0

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end. Raises: StudioError where the disk fails."""
        data = self._source.read(self.at, size)
        self.at += len(data)
        return data

    def peek(self, size: int) -> bytes:
        """The bytes that `read` will give."""
        return self._source.read(self.at, size)


def _open_regular_file(path: Path) -> int:
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        descriptor = os.open(path, flags)  # not blocking: a pipe nobody writes to must not hang us
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StudioError(f"{path_text(path)} can't be opened: {reason}.") from error
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise StudioError(
            f"{path_text(path)} is {_kind_in_words(kind)}, not a file.", hint="Choose a data file."
        )
    return descriptor


def _kind_in_words(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def _read_at(descriptor: int, offset: int, size: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows has no pread
    return os.read(descriptor, size)
