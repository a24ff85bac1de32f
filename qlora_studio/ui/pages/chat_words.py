"""What a reply says, with the safe part of Markdown, and marks where two replies differ."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from PySide6.QtCore import QEvent, Qt
from PySide6.QtWidgets import QLabel

from qlora_studio.plain_text import visible_text
from qlora_studio.state.markdown_blocks import Block, Run, markdown_blocks
from qlora_studio.state.word_diff import Span
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import PlainLabel
from qlora_studio.ui.widgets.text import LONGEST_SHOWN, breakable

_HEADING_PX = {1: 17, 2: 16}  # at 100 %; deeper ones are as large as the words, and bold
_WORDS_PX = 14
_INDENT = 16  # px at 100 % an item stands in, for each list around it
_GAP, _TIGHT_GAP = 8, 2  # px at 100 % above a block


class SteadyLabel(PlainLabel):
    """Remembers how high it is: a layout asks several times, and of all parts whenever the last one grows."""

    def __init__(self, role: str, *, name: str) -> None:
        self._heights: dict[int, int] = {}
        super().__init__("", role, wrap=True, name=name)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)

    def setText(self, text: str) -> None:
        self._heights.clear()
        super().setText(text)

    def changeEvent(self, event: QEvent) -> None:
        self._heights.clear()
        super().changeEvent(event)

    def heightForWidth(self, width: int) -> int:
        height = self._heights.get(width)
        if height is None:
            height = self._heights[width] = super().heightForWidth(width)
        return height


class FormattedLabel(SteadyLabel):
    """Plain as any other, or with styles and marks.

    The only rich text that letters from outside come into (S8): all tags in it are p, b, i, s, span and br of
    ours, around letters that are escaped run by run.
    """

    def __init__(self, role: str, *, name: str) -> None:
        self._blocks: tuple[Block, ...] = ()
        self._marks: tuple[Span, ...] = ()
        super().__init__(role, name=name)
        theme().changed.connect(self._draw)

    def text(self) -> str:
        """What is read, without styles."""
        return "\n".join(block.text for block in self._blocks) if self._blocks else super().text()

    def setText(self, text: str) -> None:
        self._blocks = ()
        self.setTextFormat(Qt.TextFormat.PlainText)
        super().setText(text)

    def show_markdown(self, text: str, marks: Sequence[Span] = ()) -> None:
        """marks: stretches of what is read."""
        blocks = () if len(text) > LONGEST_SHOWN else markdown_blocks(visible_text(text))
        if blocks:
            self._show(blocks, marks)
        else:  # too long, then it is cut and says so; or marks alone
            self.setText(text)

    def show_marked(self, text: str, marks: Sequence[Span]) -> None:
        """As it is written; plain where nothing is marked."""
        if not marks or len(text) > LONGEST_SHOWN:
            self.setText(text)
        else:
            self._show((Block("words", (Run(visible_text(text)),)),), marks)

    def _show(self, blocks: tuple[Block, ...], marks: Sequence[Span]) -> None:
        if (blocks, tuple(marks)) != (self._blocks, self._marks):
            self._blocks, self._marks = blocks, tuple(marks)
            self._draw()

    def _draw(self) -> None:
        if self._blocks:
            self._heights.clear()
            self.setTextFormat(Qt.TextFormat.RichText)
            QLabel.setText(self, as_html(self._blocks, self._marks))
            self.updateGeometry()


def as_html(blocks: Sequence[Block], marks: Sequence[Span] = ()) -> str:
    """marks: stretches of the blocks' texts, joined by line ends."""
    written = []
    begin = 0
    before: Block | None = None
    for block in blocks:
        inside = "".join(_run(run, at, marks, block) for run, at in _places(block, begin))
        written.append(f'<p style="{_layout(block, before)}">{inside}</p>')
        begin += len(block.text) + 1
        before = block
    return "".join(written)


def _places(block: Block, begin: int) -> Iterator[tuple[Run, int]]:
    for run in block.runs:
        yield run, begin
        begin += len(run.text)


def _run(run: Run, begin: int, marks: Sequence[Span], block: Block) -> str:
    """The letters in their styles, marked ones on a ground of their own and underlined."""
    pieces = []
    at, end = begin, begin + len(run.text)
    for mark in marks:
        first, last = max(mark.begin, at), min(mark.end, end)
        if first < last:
            pieces.append(_escaped(run.text[at - begin : first - begin]))
            marked = _escaped(run.text[first - begin : last - begin])
            ground = theme().color("accent_soft").name()
            pieces.append(
                f'<span style="background-color:{ground};text-decoration:underline">{marked}</span>'
            )
            at = last
    pieces.append(_escaped(run.text[at - begin :]))
    text = "".join(pieces)
    if run.code:
        ground = theme().color("sunken").name()
        text = f'<span style="font-family:JetBrains Mono;background-color:{ground}">{text}</span>'
    for tag, on in (("i", run.italic), ("s", run.struck), ("b", run.bold or block.kind == "heading")):
        text = f"<{tag}>{text}</{tag}>" if on else text
    return text


def _escaped(text: str) -> str:
    return html.escape(breakable(text)).replace("\n", "<br>")


def _layout(block: Block, before: Block | None) -> str:
    tight = block.tight and before is not None and before.kind == block.kind
    above = 0 if before is None else theme().px(_TIGHT_GAP if tight else _GAP)
    left = theme().px(_INDENT) * block.depth if block.kind in ("item", "quote") else 0
    first = -theme().px(_INDENT) if block.kind == "item" else 0
    size = _HEADING_PX.get(block.depth, _WORDS_PX) if block.kind == "heading" else 0
    words = f"margin:{above}px 0 0 {left}px;text-indent:{first}px;white-space:pre-wrap"
    if size:
        words += f";font-size:{theme().px(size)}px"
    if block.kind == "quote":
        words += f";color:{theme().color('muted').name()}"
    return words
