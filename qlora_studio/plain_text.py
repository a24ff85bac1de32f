"""Text from outside, made safe to show: control and bidi characters visible, never endless (S8)."""

from __future__ import annotations

import unicodedata

LONGEST = 10_000  # characters that one widget, or one line in a terminal, is given

_KEPT = frozenset("\n\t")
# What turns the direction of text around, or hides: it can make a name read as another one.
_HIDDEN = frozenset(
    "\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)


def visible_text(text: str, longest: int = LONGEST) -> str:
    """`text` with each control or direction character written as its code, cut at `longest`."""
    cut = text[:longest]
    if not cut.isprintable():  # most text is: nothing to look at
        cut = "".join(_visible(character) for character in cut)
    return cut if len(text) <= longest else f"{cut}… ({len(text) - longest:,} more characters)"


def visible_line(text: str, longest: int = LONGEST) -> str:
    """The same on one line."""
    return visible_text(text, longest).replace("\n", "⏎").replace("\t", " ")


def _visible(character: str) -> str:
    if character in _KEPT:
        return character
    if character in _HIDDEN or unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn"):
        return f"<U+{ord(character):04X}>"
    return character
