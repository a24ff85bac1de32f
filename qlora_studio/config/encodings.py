"""Encodings that text may be read in: UTF-8 is found, the others are chosen by a person."""

from __future__ import annotations

import codecs
from typing import Literal

Encoding = Literal[
    "auto",
    "utf-8",
    "utf-16-le",
    "utf-16-be",
    "windows-1252",
    "latin-1",
    "iso-8859-15",
    "windows-1250",
    "windows-1251",
    "koi8-r",
    "windows-1253",
    "windows-1254",
    "shift_jis",
    "euc-jp",
    "gb18030",
    "big5",
    "euc-kr",
]
ENCODING_WORDS: dict[str, str] = {
    "auto": "From the content",
    "utf-8": "UTF-8",
    "utf-16-le": "UTF-16, little end first",
    "utf-16-be": "UTF-16, big end first",
    "windows-1252": "Windows-1252, Western Europe",
    "latin-1": "Latin-1, Western Europe",
    "iso-8859-15": "ISO 8859-15, Western Europe with the euro sign",
    "windows-1250": "Windows-1250, Central Europe",
    "windows-1251": "Windows-1251, Cyrillic",
    "koi8-r": "KOI8-R, Russian",
    "windows-1253": "Windows-1253, Greek",
    "windows-1254": "Windows-1254, Turkish",
    "shift_jis": "Shift JIS, Japanese",
    "euc-jp": "EUC-JP, Japanese",
    "gb18030": "GB 18030, simplified Chinese",
    "big5": "Big5, traditional Chinese",
    "euc-kr": "EUC-KR, Korean",
}
ENCODINGS = tuple(ENCODING_WORDS)


def encoding_named(name: str) -> str:
    """Ours under any name that Python knows it by, as cp1252 or utf8; `name` itself where it is none."""
    if name in ENCODINGS:
        return name
    try:
        known = codecs.lookup(name)
        return next(ours for ours in ENCODINGS[1:] if codecs.lookup(ours).name == known.name)
    except (LookupError, StopIteration, ValueError):  # ValueError: a NUL in the name
        return name
