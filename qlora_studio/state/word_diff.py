"""What is new and what is gone between two replies, word by word."""

from __future__ import annotations

import difflib
import re
from typing import Literal, NamedTuple

_WORD = re.compile(r"\S+\s*|\s+")
_MOST_WORDS = 2_000  # of each reply; beyond that comparing takes longer than a frame


class Piece(NamedTuple):
    """A stretch of words, with the spaces behind them."""

    fate: Literal["same", "gone", "new"]
    text: str


def word_diff(before: str, after: str) -> list[Piece]:
    """In reading order, what is gone before what came in its place."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    if max(len(old), len(new)) > _MOST_WORDS:
        return [Piece("same", after)] if before == after else [Piece("gone", before), Piece("new", after)]
    bare_old, bare_new = [word.strip() for word in old], [word.strip() for word in new]
    pieces: list[Piece] = []
    matcher = difflib.SequenceMatcher(None, bare_old, bare_new, autojunk=False)
    for kind, old_first, old_last, new_first, new_last in matcher.get_opcodes():
        gone, came = "".join(old[old_first:old_last]), "".join(new[new_first:new_last])
        if kind == "equal":
            pieces.append(Piece("same", came))
            continue
        if gone:
            pieces.append(Piece("gone", gone))
        if came:
            pieces.append(Piece("new", came))
    return pieces
