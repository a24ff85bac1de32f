"""What is in a compressed file, as a stream: never more than asked for at once, never more than D6 allows."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from qlora_studio.data.limits import MAX_EXPANSION, MAX_TEXT_BYTES
from qlora_studio.data.source_file import Feed
from qlora_studio.errors import StudioError

_READ_BYTES = 1 << 16
_OUT_BYTES = 1 << 20
_SMALL_BYTES = 1 << 16  # a file may begin with very much of the same; beyond what this gives the ratio counts
_MOST_EMPTY = 1_000
_XZ_MEMORY_BYTES = 256 << 20  # the strongest presets take 65 MB
_NEEDS_MEMORY = ("Memory usage limit", "too much memory")  # as xz and zstd say it

_MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
MAGIC_BYTES = 6


def compression_of(head: bytes) -> str:
    """gzip, bzip2, xz or zstd, told by the first bytes; empty where it is none of them."""
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"  # it begins with a frame to be skipped, as parallel packers write it
    return next((kind for magic, kind in _MAGICS if head.startswith(magic)), "")


def unpacked(feed: Feed, kind: str) -> Iterator[bytes]:
    """Pieces of at most a megabyte. Raises: StudioError naming the file, and the line that it breaks in."""
    limits = _Limits(feed)
    pieces = _zstd(feed) if kind == "zstd" else _members(feed, kind)
    try:
        for piece in pieces:
            limits.count(piece)
            yield piece
    except EOFError as error:
        raise StudioError(
            f"{feed.name} is cut off: its {kind} stream ends in the middle, in line {limits.lines + 1:,} "
            f"of the text, after {feed.at:,} bytes of the file.",
            hint="Copy or download it again.",
        ) from error
    except (OSError, zlib.error, lzma.LZMAError, ValueError) as error:
        if any(words in str(error) for words in _NEEDS_MEMORY):
            raise StudioError(
                f"{feed.name} needs more memory to be unpacked than the {_XZ_MEMORY_BYTES >> 20} MB that "
                "are allowed.",
                hint="Pack it again with usual settings, or unpack it.",
            ) from error
        raise StudioError(
            f"{feed.name} is damaged: its {kind} stream breaks in line {limits.lines + 1:,} of the text, "
            f"before byte {feed.at:,} of the file.",
            hint="Copy or download it again.",
        ) from error


class _Limits:
    """Counts what comes out against what went in."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._bytes = 0
        self.lines = 0

    def count(self, piece: bytes) -> None:
        self._bytes += len(piece)
        self.lines += piece.count(b"\n")
        if self._bytes > MAX_EXPANSION * max(self._feed.at, _SMALL_BYTES):
            raise StudioError(
                f"{self._feed.name} unpacks to more than {MAX_EXPANSION} times its size.",
                hint="It may be made to fill the disk; it is not read.",
            )
        if self._bytes > MAX_TEXT_BYTES:
            raise StudioError(
                f"{self._feed.name} unpacks to more than {MAX_TEXT_BYTES / 1e9:.0f} GB of text.",
                hint="Split it into smaller files.",
            )


_NEW: dict[str, Callable[[], Any]] = {
    "gzip": lambda: _Gzip(),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES),
}


def _members(feed: Feed, kind: str) -> Iterator[bytes]:
    """Of a file of one stream, or of several one behind the other, as the tools write and read them."""
    data = feed.read(_READ_BYTES)
    empty = 0
    while data:
        stream = _NEW[kind]()
        empty += 1
        if empty > _MOST_EMPTY:
            raise StudioError(
                f"{feed.name} holds more than {_MOST_EMPTY:,} empty {kind} streams in a row.",
                hint="It may be made to stop programs that read it; it is not read.",
            )
        while not stream.eof:
            piece = stream.decompress(data, _OUT_BYTES)
            data = b""
            if piece:
                empty = 0
                yield piece
            if stream.needs_input and not stream.eof and not (data := feed.read(_READ_BYTES)):
                raise EOFError
        data = stream.unused_data.lstrip(b"\x00")  # some tools fill up the last block of a disk or tape
        while not data and (more := feed.read(_READ_BYTES)):
            data = more.lstrip(b"\x00")
        if data and compression_of(data + feed.peek(MAGIC_BYTES)) != kind:
            raise ValueError("something else follows its end")


class _Gzip:
    """zlib with the words of the other two."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _zstd(feed: Feed) -> Iterator[bytes]:
    """Python has it from 3.14 on only; Arrow's reads several frames too, in windows of at most 128 MB."""
    import pyarrow as pa

    with pa.CompressedInputStream(_FeedFile(feed), "zstd") as stream:
        while True:
            try:
                piece = stream.read(_OUT_BYTES)
            except OSError as error:
                if "Truncated" in str(error):
                    raise EOFError from error
                raise
            if not piece:
                return
            yield piece


class _FeedFile(io.RawIOBase):
    """A feed as a file, for a library that asks for one."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._feed.read(_READ_BYTES if size < 0 else min(size, _READ_BYTES))
