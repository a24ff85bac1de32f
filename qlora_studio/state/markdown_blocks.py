"""The part of Markdown that a reply is shown with: bold, italic, code, headings, lists and quotations.

All else stays as it was written: no link, no picture and no HTML is made of anything (S8).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

# Not "escape": models write \( and \[ around formulas, and these must stay. Not "newline": it takes away the
# blanks that lines of code and of verse begin with.
_RULES = ["heading", "list", "blockquote", "emphasis", "strikethrough", "backticks"]
# From Thai on scripts write words, or their endings, without a blank between: there emphasis is within words.
_JOINED_SCRIPTS = "\u0e00"
_PYTHON_NAME = re.compile(r"__[A-Za-z]\w{0,60}?__(?!\w)")
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

    parser = MarkdownIt("zero").enable(_RULES)
    parser.inline.ruler.before("emphasis", "sign", _sign)
    parser.block.ruler.at("paragraph", _paragraph)
    return parser


def _sign(state: StateInline, silent: bool) -> bool:
    """A rule of the parser: what is no emphasis but a product (4*2, 2**3), a Python name, or escaped."""
    if silent or state.src[state.pos] not in "*_":
        return False
    end = state.pos + state.scanDelims(state.pos, True).length
    before = state.src[state.pos - 1] if state.pos else " "
    if name := _PYTHON_NAME.match(state.src, state.pos):
        end = name.end()
    elif before != "\\" and not (_in_spaced_word(before) and _in_spaced_word(state.src[end : end + 1])):
        return False
    state.pending += state.src[state.pos : end]
    state.pos = end
    return True


def _in_spaced_word(character: str) -> bool:
    return character.isalnum() and character < _JOINED_SCRIPTS


def _paragraph(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The parser's own rule, with the blanks that the first line begins with."""
    from markdown_it.rules_block import paragraph

    line = state.getLines(start, start + 1, state.blkIndent, False)
    ended = paragraph(state, start, end, silent)
    state.tokens[-2].content = line[: -len(line.lstrip(" \t"))] + state.tokens[-2].content
    return ended


def _blocks(tokens: list[Token]) -> Iterator[Block]:
    lists: list[str] = []  # the mark of the item in hand, of each list it stands in; empty once it is written
    quotes = heading = 0
    tight, marks = False, ""
    for token in tokens:
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                yield from _wordless_item(lists)
                lists.append("")
            case "bullet_list_close" | "ordered_list_close":
                lists.pop()
            case "list_item_open":
                lists[-1] = f"{token.info}{token.markup} " if token.info else f"{_BULLET} "
            case "list_item_close":
                yield from _wordless_item(lists)
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
                elif heading and not runs:
                    yield Block("words", (Run(marks),))
                elif heading > _DEEPEST_HEADING:
                    yield Block("words", (Run(f"{marks} "), *runs))
                elif heading:
                    yield Block("heading", runs, heading)
                else:
                    yield Block("quote" if quotes else "words", runs, quotes)


def _wordless_item(lists: list[str]) -> Iterator[Block]:
    """The mark of the item in hand, where nothing was written with it: a reply may be "42." alone."""
    if lists and lists[-1]:
        mark, lists[-1] = lists[-1], ""
        yield Block("item", (Run(mark.rstrip()),), len(lists), tight=True)


def _runs(tokens: list[Token]) -> Iterator[Run]:
    on: dict[str, int] = {}
    for token in tokens:
        name, _, side = token.type.rpartition("_")
        if name in _STYLES and side in ("open", "close"):
            on[_STYLES[name]] = on.get(_STYLES[name], 0) + (1 if side == "open" else -1)
            continue
        if token.content:
            styles = {style: depth > 0 for style, depth in on.items()}
            yield Run(token.content, code=token.type == "code_inline", **styles)
