"""Where replies to the same message differ, as marks on their parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from qlora_studio.plain_text import visible_text
from qlora_studio.state.markdown_blocks import markdown_blocks
from qlora_studio.state.reply_parts import Kind, Part, reply_parts
from qlora_studio.state.word_diff import Span, differing

LEAST_ALIKE = 0.3  # share of words; of texts with less in common nearly all would be marked

PartMarks = tuple[tuple[Span, ...], ...]


@dataclass(frozen=True)
class Marks:
    """Of each part of the first and of the second reply, what the other doesn't say.

    compared: False where they are too long, or unlike: with too little in common
    """

    first: PartMarks = ()
    second: PartMarks = ()
    compared: bool = False
    unlike: bool = False


@lru_cache(maxsize=64)  # a chat is painted anew whenever anything changes
def marks_between(first: str, second: str) -> Marks:
    """Of two replies, as they are read: what was thought before is no answer and isn't compared."""
    read_first, read_second = _read(first), _read(second)
    if read_first == read_second:  # however long they are
        none: PartMarks = ((),) * len(read_first)
        return Marks(none, none, compared=True)
    found = differing("\n".join(read_first), "\n".join(read_second))
    if found is None:
        return Marks()
    if found.alike < LEAST_ALIKE:
        return Marks(unlike=True)
    return Marks(
        tuple(_of_parts(read_first, found.first)), tuple(_of_parts(read_second, found.second)), compared=True
    )


def _read(reply: str) -> list[str]:
    """What is read of each part, letter by letter as it is shown."""
    return [_shown(part) for part in reply_parts(reply)]


def _shown(part: Part) -> str:
    if part.kind is Kind.THOUGHT:
        return ""
    if part.kind is Kind.CODE:
        return visible_text(part.text)
    return "\n".join(block.text for block in markdown_blocks(visible_text(part.text)))


def _of_parts(parts: list[str], spans: tuple[Span, ...]) -> Iterator[tuple[Span, ...]]:
    """The spans of all parts joined, as those of each; one may go over several."""
    at = 0
    for part in parts:
        end = at + len(part)
        yield tuple(
            Span(max(span.begin, at) - at, min(span.end, end) - at)
            for span in spans
            if span.begin < end and span.end > at
        )
        at = end + 1
