"""A reply, taken apart for the eye: words, blocks of code, and what the model thought before it answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

_OPENS, _CLOSES = "<think>", "</think>"
# As CommonMark has it: three or more of a kind, after at most three spaces; the rest names the language.
_FENCE = re.compile(r" {0,3}(?P<marks>`{3,}|~{3,})(?P<rest>[^\n]*)")

_GAP = re.compile(r"\n{2,}(?=\S)")  # not before an indented line: that belongs to the item above
_STRETCH = 600  # characters


class Kind(Enum):
    """What a stretch of a reply is."""

    WORDS = "words"
    CODE = "code"
    THOUGHT = "thought"


@dataclass(frozen=True)
class Part:
    """language: of code, as the model named it. complete: its end was written."""

    kind: Kind
    text: str
    language: str = ""
    complete: bool = True


def reply_parts(text: str) -> list[Part]:
    """In order. What was written keeps its kind while more comes, but for a thought that only closes."""
    thought, rest = _thought(text)
    return [*thought, *_words_and_code(rest)]


def _thought(text: str) -> tuple[list[Part], str]:
    """At the beginning alone: further down the marks are something the reply talks about.

    Templates may open the thought themselves; the reply then has its end without a beginning.
    """
    begun = text.lstrip()
    opened = begun.startswith(_OPENS)
    inner, closed, rest = begun.removeprefix(_OPENS).partition(_CLOSES)
    if not opened and (not closed or "```" in inner):
        return [], text
    thought = (
        [Part(Kind.THOUGHT, inner.strip(), complete=bool(closed))] if inner.strip() or not closed else []
    )
    return thought, rest.lstrip("\n")


def _words_and_code(text: str) -> list[Part]:
    parts: list[Part] = []
    lines: list[str] = []
    marks = language = ""  # of the block that is open
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line)
        if fence and not marks and not ("`" in fence["rest"] and fence["marks"][0] == "`"):
            parts += _words(lines)
            marks, language, lines = fence["marks"], fence["rest"].strip(), []
        elif fence and marks and fence["marks"].startswith(marks) and not fence["rest"].strip():
            parts.append(Part(Kind.CODE, "\n".join(lines), language))
            marks, language, lines = "", "", []
        else:
            lines.append(line)
    if marks:
        return [*parts, Part(Kind.CODE, "\n".join(lines), language, complete=False)]
    return [*parts, *_words(lines)]


def _words(lines: list[str]) -> list[Part]:
    """Without the empty lines around a block: the layout has room there."""
    text = "\n".join(lines).strip("\n")
    return [Part(Kind.WORDS, stretch) for stretch in _stretches(text)] if text.strip() else []


def _stretches(text: str) -> Iterator[str]:
    """Whole paragraphs, few enough that one more of them is formatted within a frame."""
    begin = 0
    for gap in _GAP.finditer(text):
        if gap.start() - begin >= _STRETCH:
            yield text[begin : gap.start()]
            begin = gap.end()
    yield text[begin:]
