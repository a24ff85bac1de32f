"""Encodings that a person may choose for a file that isn't UTF-8: nothing is ever read as a guess (D5)."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from qlora_studio.config.encodings import ENCODINGS
from qlora_studio.errors import StudioError

_CODECS = {  # Python's names, where the usual tables hold more than the standard's
    "windows-1250": "cp1250",
    "windows-1251": "cp1251",
    "windows-1252": "cp1252",
    "windows-1253": "cp1253",
    "windows-1254": "cp1254",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
}
_GUESSED = [name for name in ENCODINGS if name != "auto" and not name.startswith("utf-")]
_MOST_LIKELY = "windows-1252"
_LOOKED_AT_BYTES = 1 << 16

UTF_16_MARKS = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
_UTF_32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


class OtherEncodingError(StudioError):
    """A file isn't UTF-8. `likely`: the encoding that its bytes look most like."""

    def __init__(self, message: str, likely: str) -> None:
        words = "If it was saved by an older program, choose its encoding: "
        super().__init__(message, f"{words}{likely} looks likely (--encoding, or data.encoding).")
        self.likely = likely


class BesideEncodingError(StudioError):
    """A file beside the data isn't UTF-8. `likely`: as above; `path`: of that file."""

    def __init__(self, message: str, hint: str, likely: str, path: str) -> None:
        super().__init__(message, hint)
        self.likely, self.path = likely, path


def marked_encoding(name: str, head: bytes) -> tuple[str, int]:
    """What the first bytes say, and how many of them are the mark; "" without one.

    Raises: StudioError where it is UTF-32.
    """
    if head.startswith(_UTF_32_MARKS):
        raise StudioError(f"{name} is UTF-32, which is not read.", hint="Save it as UTF-8.")
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig", len(codecs.BOM_UTF8)
    return next(((encoding, 2) for encoding, mark in UTF_16_MARKS.items() if head.startswith(mark)), ("", 0))


def utf_16_without_mark(head: bytes) -> str:
    """The UTF-16 that text of mostly Latin letters seems to be; "" where it doesn't."""
    half = len(head) // 2
    zeros = head[0 : 2 * half : 2].count(0), head[1 : 2 * half : 2].count(0)
    if half < 2 or min(zeros) >= 0.05 * half or max(zeros) <= 0.5 * half:
        return ""
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def in_utf_8(pieces: Iterator[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """Text in this encoding as UTF-8. Raises: StudioError naming the line that isn't in it."""
    decoder = codecs.getincrementaldecoder(_CODECS.get(encoding, encoding))("strict")
    lines = 0
    try:
        for piece in pieces:
            text = decoder.decode(piece)
            lines += text.count("\n")
            yield text.encode("utf-8")
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        read = error.object[: error.start] if isinstance(error, UnicodeDecodeError) else b""
        line = 1 + lines + read.decode(_CODECS.get(encoding, encoding), "replace").count("\n")
        raise StudioError(
            f"{name}: line {line:,} is not {encoding}.",
            hint="Choose another encoding, or save it as UTF-8.",
        ) from error


def likely_encoding(text: bytes) -> str:
    """What bytes that aren't UTF-8 look most like, from the lines that have other letters than ASCII's."""
    from charset_normalizer import from_bytes

    lines = [line for line in text.splitlines() if not line.isascii()]
    looked_at = b"\n".join(lines)[:_LOOKED_AT_BYTES]
    codecs_ = {codecs.lookup(_CODECS.get(name, name)).name: name for name in _GUESSED}
    found = list(from_bytes(looked_at, cp_isolation=list(codecs_)))
    best = {(match.chaos, match.coherence) for match in found[:1]}
    equal = [match.encoding for match in found if (match.chaos, match.coherence) in best]
    names = [codecs_.get(codecs.lookup(encoding).name, _MOST_LIKELY) for encoding in equal]
    likely = min(names, key=_GUESSED.index, default=_MOST_LIKELY)
    return _MOST_LIKELY if _reads_alike(looked_at, likely, _MOST_LIKELY) else likely


def _reads_alike(text: bytes, one: str, other: str) -> bool:
    """German, for example, has the same bytes in Windows-1250 and Windows-1252."""
    try:
        return text.decode(_CODECS.get(one, one)) == text.decode(_CODECS.get(other, other))
    except UnicodeDecodeError:
        return False
