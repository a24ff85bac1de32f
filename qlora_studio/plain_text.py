"""Text from outside, made safe to show: control and bidi characters visible, never endless (S8)."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 10_000  # characters that one widget, or one line in a terminal, is given

_KEPT = frozenset("\n\t")
# What turns the direction of text around, or hides: it can make a name read as another one. Unicode's
# Bidi_Control and Default_Ignorable_Code_Point, the two separators and the annotation marks. Many of these
# are "printable" to Python: fillers are letters, selectors are marks.
_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
# Of these, what a single letter or emoji may need after it: joiners and variation selectors.
_JOINING = re.compile("[\u180b-\u180d\u180f\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_EMOJI_STYLE = "\ufe0f"
_JOINER = "\u200d"


def visible_text(text: str, longest: int = LONGEST) -> str:
    """`text` with each control or direction character written as its code, cut at `longest`.

    What stands for a character depends on the one before it alone: what was shown stays when more comes.
    """
    cut = text[:longest]
    if not cut.replace("\n", "").replace("\t", "").isprintable() or _HIDDEN.search(cut):  # most text is plain
        cut = "".join(map(_visible, cut, " " + cut))
    return cut if len(text) <= longest else f"{cut}… ({len(text) - longest:,} more characters)"


def visible_line(text: str, longest: int = LONGEST) -> str:
    """The same on one line."""
    return visible_text(text, longest).replace("\n", "⏎").replace("\t", " ")


def _visible(character: str, before: str) -> str:
    if character in _KEPT:
        return character
    if _HIDDEN.match(character):
        shown = _JOINING.match(character) is not None and _takes(before, character)
    else:
        shown = unicodedata.category(character) not in ("Cc", "Cs", "Co", "Cn")
    return character if shown else f"<U+{ord(character):04X}>"


def _takes(before: str, joining: str) -> bool:
    """Whether a joiner or selector has its use here: never two in a row, where whole texts could hide."""
    if before == _EMOJI_STYLE:
        return joining == _JOINER  # as in the emoji of couples
    if before.isascii():
        return joining == _EMOJI_STYLE and before in "#*0123456789"  # keycaps
    return not _HIDDEN.match(before)
