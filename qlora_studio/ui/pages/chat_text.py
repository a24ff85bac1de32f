"""The words of one reply: code in blocks that can be copied, thoughts folded, all of it plain text (S8)."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.plain_text import visible_line
from qlora_studio.state.reply_marks import PartMarks
from qlora_studio.state.reply_parts import Kind, Part, reply_parts
from qlora_studio.state.word_diff import Span
from qlora_studio.ui.pages.chat_words import FormattedLabel, SteadyLabel
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import IconButton, LinkButton, PlainLabel

_CURSOR = " ▌"
_MOST_PARTS = 60  # of one reply that are shown apart; what follows stands as it was written


class ReplyText(QWidget):
    """Grows while it is written: a part that stays as it is isn't touched. copied: a block of code."""

    copied = Signal(str)

    def __init__(self, *, name: str) -> None:
        super().__init__()
        self.setObjectName(f"{name}_parts")
        self._name = name
        self._parts: list[WordsPart | CodeBlock | ThoughtPart] = []
        self._shown: list[tuple[Part, Sequence[Span]]] = []
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(theme().px(8))
        self._layout.addStretch(1)

    def show_problem(self, words: str) -> None:
        """Why there is no reply."""
        self._show([Part(Kind.WORDS, words, complete=False)], ())
        self._parts[0].set_tone("bad")

    def show_text(self, text: str, *, written: bool, marks: PartMarks = ()) -> None:
        """written: more is to come. marks: of each part, where it differs from another reply's."""
        parts = reply_parts(text) or [Part(Kind.WORDS, "")]
        if len(parts) > _MOST_PARTS:
            parts, marks = [Part(Kind.WORDS, text, complete=False)], ()
        elif written:
            parts = [*parts[:-1], *_still_written(parts[-1])]
        self._show(parts, marks)
        for part in self._parts:
            part.set_tone("")

    def _show(self, parts: list[Part], marks: PartMarks) -> None:
        kept = 0
        while kept < min(len(parts), len(self._parts)) and self._parts[kept].kind is parts[kept].kind:
            kept += 1
        for widget in self._parts[kept:]:
            self._layout.removeWidget(widget)
            widget.hide()
            widget.deleteLater()
        del self._parts[kept:], self._shown[kept:]
        shown: list[tuple[Part, Sequence[Span]]] = [
            (part, marks[place] if place < len(marks) else ()) for place, part in enumerate(parts)
        ]
        for place, (part, of_part) in enumerate(shown):
            if place == len(self._parts):
                self._parts.append(self._widget(part.kind, place))
                self._layout.insertWidget(place, self._parts[place])
            if self._shown[place : place + 1] != [(part, of_part)]:
                self._parts[place].show_part(part, of_part)
        self._shown = shown

    def _widget(self, kind: Kind, place: int) -> WordsPart | CodeBlock | ThoughtPart:
        name = f"{self._name}_{kind.value}_{place}"
        if kind is Kind.CODE:
            block = CodeBlock(name=name)
            block.copied.connect(self.copied)
            return block
        if kind is Kind.THOUGHT:
            return ThoughtPart(name=name)
        return WordsPart(name=name if place else self._name)


def _still_written(part: Part) -> list[Part]:
    """Complete paragraphs stand as they will stay; the last one is plain, with a cursor at its end."""
    done, gap, last = part.text.rpartition("\n\n") if part.kind is Kind.WORDS else ("", "", part.text)
    tail = Part(part.kind, last + _CURSOR, part.language, complete=False)
    return [Part(Kind.WORDS, done), tail] if gap and done.strip() else [tail]


class WordsPart(FormattedLabel):
    """What is simply said. Its last paragraph is plain while it is being written."""

    kind = Kind.WORDS

    def __init__(self, *, name: str) -> None:
        super().__init__("chat", name=name)

    def show_part(self, part: Part, marks: Sequence[Span]) -> None:
        if part.complete:
            self.show_markdown(part.text, marks)
        else:
            self.setText(part.text)


class CodeBlock(QFrame):
    """copied: the code, as it was written."""

    kind = Kind.CODE
    copied = Signal(str)

    def __init__(self, *, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self._code = ""
        self._language = PlainLabel("", "note", name=f"{name}_language")
        copy = IconButton("copy", "Copy the code", small=True, name=f"{name}_copy")
        copy.clicked.connect(lambda: self.copied.emit(self._code))
        self._text = FormattedLabel("mono", name=f"{name}_text")
        head = QHBoxLayout()
        head.addWidget(self._language, 1)
        head.addWidget(copy)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(theme().px(10), theme().px(4), theme().px(6), theme().px(10))
        layout.setSpacing(theme().px(4))
        layout.addLayout(head)
        layout.addWidget(self._text)

    def show_part(self, part: Part, marks: Sequence[Span]) -> None:
        self._code = part.text.removesuffix(_CURSOR)
        self._language.setText(visible_line(part.language, 40) or "code")
        self._text.show_marked(part.text, marks)

    def set_tone(self, tone: str) -> None:
        """Code is never a problem."""


class ThoughtPart(QWidget):
    """Folded until somebody wants to read it."""

    kind = Kind.THOUGHT

    def __init__(self, *, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self._fold = LinkButton("", "chevron-right", small=True, name=f"{name}_fold")
        self._fold.setCheckable(True)
        self._text = SteadyLabel("muted", name=f"{name}_text")
        self._text.hide()
        self._fold.toggled.connect(self._on_fold)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(4))
        layout.addWidget(self._fold)
        layout.addWidget(self._text)

    def show_part(self, part: Part, marks: Sequence[Span]) -> None:
        """marks: none; of thoughts nobody asks how they differ."""
        count = len(part.text.removesuffix(_CURSOR).split())
        words = f"{count:,} word" if count == 1 else f"{count:,} words"
        self._fold.setText(f"Reasoning, {words}" if part.complete else f"Reasoning, {words} so far")
        self._text.setText(part.text)

    def set_tone(self, tone: str) -> None:
        """A thought is never a problem."""

    def _on_fold(self, shown: bool) -> None:
        self._fold.set_icon("chevron-down" if shown else "chevron-right")
        self._text.setVisible(shown)
