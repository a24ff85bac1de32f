"""A file from outside, opened without trusting it: a regular file, read in chunks, never written to."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from qlora_studio.data.limits import MAX_TEXT_BYTES
from qlora_studio.data.path_text import path_text
from qlora_studio.errors import StudioError

CHUNK_BYTES = 4 << 20
_TAIL_BYTES = 1 << 16  # in which a line of most files ends

Told = Callable[[int, int, str], None]  # done, total (0: unknown), words for a person

_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x1b")  # controls that text files have
_KNOWN_BINARY = (
    (b"PK\x03\x04", "a ZIP archive; archives are not unpacked"),
    (b"\x1f\x8b", "compressed with gzip; compressed files can't be read yet"),
    (b"BZh", "compressed with bzip2; compressed files can't be read yet"),
    (b"\xfd7zXZ\x00", "compressed with xz; compressed files can't be read yet"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; compressed files can't be read yet"),
    (b"%PDF", "a PDF document"),
    (b"GGUF", "a GGUF model"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"ARROW1", "an Arrow file"),
)


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


@dataclass(frozen=True)
class TextFile:
    """A file known to hold text: its bytes from `start` on are UTF-8, or said to be.

    path, name, encoding: of the file as it came: "utf-8", "utf-8-sig", "utf-16-le" or "utf-16-be"
    """

    path: Path
    name: str
    source: SourceFile
    start: int
    encoding: str


def as_text(source: SourceFile, copy: Path, told: Told) -> TextFile:
    """`source` as UTF-8; a file in UTF-16 is turned into UTF-8 at `copy`, which stands for it from then on.

    Raises: StudioError naming the file, where it holds no text.
    """
    head = source.read(0, 1 << 16)
    for bom, encoding in _UTF_16.items():
        if head.startswith(bom) and not head.startswith(_UTF_32):
            return TextFile(source.path, source.name, _transcoded(source, encoding, copy, told), 0, encoding)
    refuse_binary(source, head)
    if head.startswith(codecs.BOM_UTF8):
        return TextFile(source.path, source.name, source, len(codecs.BOM_UTF8), "utf-8-sig")
    return TextFile(source.path, source.name, source, 0, "utf-8")


def refuse_binary(source: SourceFile, head: bytes) -> None:
    """Raises: StudioError where the file's first bytes show that it is no text, saying what it is."""
    name = source.name
    if not head:
        raise StudioError(f"{name} is empty.", hint="Choose a file with rows in it.")
    for magic, what in _KNOWN_BINARY:
        if head.startswith(magic):
            raise StudioError(f"{name} is {what}.", hint="Choose a JSON, CSV, Parquet or text file.")
    if head.startswith(_UTF_32):
        raise StudioError(f"{name} is UTF-32, which is not read.", hint="Save it as UTF-8.")
    if _like_utf_16(head):
        raise StudioError(
            f"{name} looks like UTF-16 without a byte order mark, so its byte order is not known.",
            hint="Save it as UTF-8.",
        )
    controls = sum(1 for byte in head if byte < 32 and byte not in _TEXT_CONTROLS)
    if b"\x00" in head or controls > len(head) / 100:
        raise StudioError(f"{name} is binary, not text.", hint="Choose a JSON, CSV, Parquet or text file.")


def _like_utf_16(head: bytes) -> bool:
    half = len(head) // 2
    if half < 2:
        return False
    zeros = (head[0 : 2 * half : 2].count(0), head[1 : 2 * half : 2].count(0))
    return min(zeros) < 0.05 * half and max(zeros) > 0.5 * half  # mostly Latin letters


def _transcoded(source: SourceFile, encoding: str, copy: Path, told: Told) -> SourceFile:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    lines = 1
    with copy.open("wb") as file:
        try:
            for chunk in source.chunks(2):  # the mark itself takes two bytes
                text = decoder.decode(chunk)
                lines += text.count("\n")
                file.write(text.encode("utf-8"))
                told(file.tell(), 0, "Turning the file into UTF-8")
            decoder.decode(b"", final=True)
        except UnicodeError as error:
            raise StudioError(
                f"{source.name} begins with the mark of UTF-16 but is not valid UTF-16 after line {lines:,}.",
                hint="Save it as UTF-8.",
            ) from error
    return SourceFile(copy)


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
