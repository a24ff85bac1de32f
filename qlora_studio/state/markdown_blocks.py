"""The part of Markdown that a reply is shown with: bold, italic, code, headings, lists and quotations.

All else stays as it was written: no link, no picture and no HTML is made of anything (S8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

# Not "escape": models write \( and \[ around formulas, and these must stay.
_RULES = ["heading", "list", "blockquote", "emphasis", "strikethrough", "backticks", "newline"]
_STYLES = {"strong": "bold", "em": "italic", "s": "struck"}
_BULLET = "•"
_DEEPEST_HEADING = 3  # four marks are what stands before GSM8K's answers

BlockKind = Literal["words", "heading", "item", "quote"]


@dataclass(frozen=True)
class Run:
    """Letters of one kind."""

    text: str
    bold: bool = False
    italic: bool = False
    struck: bool = False
    code: bool = False


@dataclass(frozen=True)
class Block:
    """Lines of one kind.

    depth: of a heading, 1 to 6; of an item or a quotation, how many of them it stands in
    tight: it follows the block before it without a gap
    """

    kind: BlockKind
    runs: tuple[Run, ...]
    depth: int = 0
    tight: bool = False

    @property
    def text(self) -> str:
        """As it is read, a list's bullets and numbers among it."""
        return "".join(run.text for run in self.runs)


@lru_cache(maxsize=256)  # a chat is painted anew whenever anything changes
def markdown_blocks(text: str) -> tuple[Block, ...]:
    """In order. Joined by line ends their texts are what is read."""
    return tuple(_blocks(_parser().parse(text)))


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt  # not at the window's start

    return MarkdownIt("zero").enable(_RULES)


def _blocks(tokens: list[Token]) -> Iterator[Block]:
    lists: list[str] = []  # the mark of the item in hand, of each list it stands in; empty once it is written
    quotes = heading = 0
    tight, marks = False, ""
    for token in tokens:
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                lists.append("")
            case "bullet_list_close" | "ordered_list_close":
                lists.pop()
            case "list_item_open":
                lists[-1] = f"{token.info}{token.markup} " if token.info else f"{_BULLET} "
            case "blockquote_open":
                quotes += 1
            case "blockquote_close":
                quotes -= 1
            case "heading_open":
                heading = int(token.tag[1:])
                marks = token.markup
            case "heading_close":
                heading = 0
            case "paragraph_open":
                tight = token.hidden
            case "inline":
                runs = tuple(_runs(token.children or []))
                if lists:
                    mark, lists[-1] = lists[-1], ""
                    yield Block("item", (Run(mark), *runs) if mark else runs, len(lists), tight)
                elif heading > _DEEPEST_HEADING:
                    yield Block("words", (Run(f"{marks} "), *runs))
                elif heading:
                    yield Block("heading", runs, heading)
                else:
                    yield Block("quote" if quotes else "words", runs, quotes)


def _runs(tokens: list[Token]) -> Iterator[Run]:
    on: dict[str, int] = {}
    for token in tokens:
        name, _, side = token.type.rpartition("_")
        if name in _STYLES and side in ("open", "close"):
            on[_STYLES[name]] = on.get(_STYLES[name], 0) + (1 if side == "open" else -1)
            continue
        text = "\n" if token.type in ("softbreak", "hardbreak") else token.content
        if text:
            styles = {style: depth > 0 for style, depth in on.items()}
            yield Run(text, code=token.type == "code_inline", **styles)
