"""What is new and what is gone between two replies, word by word."""

from __future__ import annotations

import difflib
import re
from typing import Literal, NamedTuple

_WORD = re.compile(r"\S+\s*|\s+")
_MOST_WORDS = 1_200  # of each reply; beyond that comparing takes longer than a frame


class Piece(NamedTuple):
    """A stretch of words, with the spaces behind them."""

    fate: Literal["same", "gone", "new"]
    text: str


class Span(NamedTuple):
    """Letters from `begin` up to `end`, which isn't among them."""

    begin: int
    end: int


class Differing(NamedTuple):
    """Where each of two texts says what the other doesn't. alike: share of the longer one's words, 0 to 1."""

    first: tuple[Span, ...]
    second: tuple[Span, ...]
    alike: float


def differing(first: str, second: str) -> Differing | None:
    """None: too long to be compared beside a window that draws."""
    words = [list(_WORD.finditer(text)) for text in (first, second)]
    if max(map(len, words)) > _MOST_WORDS:
        return None
    bare_first, bare_second = ([word[0].strip() for word in said] for said in words)
    matcher = difflib.SequenceMatcher(None, bare_first, bare_second, autojunk=False)
    spans: tuple[list[Span], list[Span]] = ([], [])
    for kind, *places in matcher.get_opcodes():
        if kind == "equal":
            continue
        for said, found, begin, end in zip(words, spans, places[::2], places[1::2], strict=True):
            if begin < end:
                last = said[end - 1]
                found.append(Span(said[begin].start(), last.start() + len(last[0].rstrip())))
    alike = sum(block.size for block in matcher.get_matching_blocks())
    return Differing(tuple(spans[0]), tuple(spans[1]), alike / max(1, *map(len, words)))


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
