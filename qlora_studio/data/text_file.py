"""Any file of text as UTF-8: unpacked where it is compressed, turned where it is in another encoding."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.data.encodings import (
    OtherEncodingError,
    in_utf_8,
    likely_encoding,
    marked_encoding,
    utf_16_without_mark,
)
from qlora_studio.data.source_file import Feed, SourceFile
from qlora_studio.data.turned_file import COPIED_BYTES, TurnedFile
from qlora_studio.data.unpacking import MAGIC_BYTES, compression_of, unpacked
from qlora_studio.errors import StudioError

_HEAD_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x1b")  # controls that text files have
_KNOWN_BINARY = (
    (0, b"PK\x03\x04", "a ZIP archive; archives are not unpacked"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; archives are not unpacked"),
    (0, b"Rar!", "a RAR archive; archives are not unpacked"),
    (257, b"ustar", "a tar archive; archives are not unpacked"),
    (0, b"%PDF", "a PDF document"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"SQLite format 3\x00", "an SQLite database"),
    (0, b"PAR1", "Parquet"),
    (0, b"ARROW1", "Arrow"),
)
_READ = "Choose a JSON, CSV, Parquet, Arrow or text file."


@dataclass(frozen=True)
class TextFile:
    """A file known to hold text: its bytes from `start` on are UTF-8, or said to be.

    path, name: of the file as it lies there
    encoding:   as it lies there: "utf-8", "utf-8-sig", or one that was turned
    packed:     gzip, bzip2, xz, zstd, or empty
    """

    path: Path
    name: str
    source: SourceFile | TurnedFile
    start: int = 0
    encoding: str = "utf-8"
    packed: str = ""

    def done(self, offset: int) -> int:
        """How many bytes of the file itself were read when those before `offset` were."""
        return self.source.done if isinstance(self.source, TurnedFile) else offset

    @property
    def bytes_read(self) -> int:
        """Of UTF-8, from the first to the last that was read."""
        return self.source.turned if isinstance(self.source, TurnedFile) else self.source.size

    def rest(self) -> None:
        """Takes no memory until it is read again."""
        if isinstance(self.source, TurnedFile):
            self.source.rest()


def as_text(
    source: SourceFile, copy: Path, encoding: str = "auto", copied_bytes: int = COPIED_BYTES
) -> TextFile:
    """`source` as UTF-8; of what has to be turned the beginning is kept at `copy`.

    encoding:     one of `ENCODINGS`; auto: UTF-8, or UTF-16 with its mark
    copied_bytes: about how many are kept
    Raises: StudioError naming the file, where it holds no text.
    """
    packed = compression_of(source.read(0, MAGIC_BYTES))
    head = _head(source, packed)
    _refuse_other_content(source.name, head, packed)
    marked, mark = marked_encoding(source.name, head)
    if encoding == "auto" and not marked and (likely := utf_16_without_mark(head)):
        words = f"{source.name} looks like UTF-16 without a byte order mark, so its byte order is not known."
        raise OtherEncodingError(words, likely)
    if marked and encoding not in ("auto", marked.removesuffix("-sig")):
        says = marked.removesuffix("-sig").upper()
        raise StudioError(
            f"{source.name} begins with the mark of {says}, so it isn't {encoding}.",
            hint="Let the encoding be found from the content.",
        )
    if encoding not in ("auto", "utf-8") and not marked and _is_utf_8(head):
        raise StudioError(
            f"{source.name} is valid UTF-8; it isn't read as {encoding}.",
            hint="Let the encoding be found from the content.",
        )
    found = marked or ("utf-8" if encoding == "auto" else encoding)
    in_utf_8_already = found.startswith("utf-8")
    if in_utf_8_already:
        _refuse_no_text(source.name, head)
    if in_utf_8_already and not packed:
        return TextFile(source.path, source.name, source, mark, found)

    def turn(feed: Feed) -> Iterator[bytes]:
        pieces = unpacked(feed, packed) if packed else _pieces(feed)
        return pieces if in_utf_8_already else in_utf_8(_without(mark, pieces), found, source.name)

    turned = TurnedFile(source, turn, copy, copied_bytes)
    if in_utf_8_already:
        return TextFile(source.path, source.name, turned, mark, found, packed)
    _refuse_no_text(source.name, turned.read(0, _HEAD_BYTES))
    return TextFile(source.path, source.name, turned, 0, found, packed)


def not_utf_8(text: TextFile, line: int, raw: bytes) -> StudioError:
    """What a person is told where `raw`, in this line, is in another encoding."""
    message = f"{text.name}: line {line:,} is not UTF-8."
    if text.encoding != "utf-8":
        return StudioError(message, hint="Its mark says so: it seems damaged. Copy or download it again.")
    return OtherEncodingError(
        message, likely_encoding(text.source.read(text.start, _HEAD_BYTES) + b"\n" + raw)
    )


def _head(source: SourceFile, packed: str) -> bytes:
    if not packed:
        return source.read(0, _HEAD_BYTES)
    head = b""
    for piece in unpacked(Feed(source), packed):
        head += piece
        if len(head) >= _HEAD_BYTES:
            break
    return head[:_HEAD_BYTES]


def _is_utf_8(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")("strict").decode(head)  # its last letter may be cut
    except UnicodeDecodeError:
        return False
    return not text.isascii()


def _pieces(feed: Feed) -> Iterator[bytes]:
    while piece := feed.read(_PIECE_BYTES):
        yield piece


def _without(mark: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Without the first bytes."""
    for piece in pieces:
        yield piece[mark:]
        mark = max(0, mark - len(piece))


def _refuse_other_content(name: str, head: bytes, packed: str) -> None:
    if not head:
        raise StudioError(f"{name} is empty.", hint="Choose a file with rows in it.")
    inside = f", inside of {packed}" if packed else ""
    if packed and (twice := compression_of(head)):
        raise StudioError(f"{name} is compressed twice: {twice}{inside}.", hint="Unpack it once.")
    for offset, magic, what in _KNOWN_BINARY:
        if head.startswith(magic, offset):
            hint = "Unpack it first: it is compressed by itself." if what in ("Parquet", "Arrow") else _READ
            raise StudioError(f"{name} is {what}{inside}.", hint=hint)


def _refuse_no_text(name: str, head: bytes) -> None:
    controls = sum(1 for byte in head if byte < 32 and byte not in _TEXT_CONTROLS)
    if b"\x00" in head or controls > len(head) / 100:
        raise StudioError(f"{name} is binary, not text.", hint=_READ)
