"""One row as people write it: who says what, and the line of the file it came from."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QTextOption
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPlainTextEdit, QScrollArea, QVBoxLayout, QWidget

from qlora_studio.data.conversation import Message, Row
from qlora_studio.plain_text import LONGEST, visible_text
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import IconLabel, PlainLabel, empty_layout
from qlora_studio.ui.widgets.columns import Columns
from qlora_studio.ui.widgets.text_size import at_text_size

MOST_TURNS = 50
MOST_CHARACTERS = 20_000  # of all turns together: laid out at once


class RowText(QScrollArea):
    """The turns below each other, their role at the left as in the view of tokens."""

    def __init__(self, *, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent, widgetResizable=True)
        self.setObjectName(name)
        self.setAccessibleName("Text of the row")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._row: Row | None = None
        content = QWidget()
        content.setObjectName("page_content")
        self._turns = QVBoxLayout()
        self._turns.setSpacing(theme().px(10))
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, theme().px(8), 0)
        layout.addLayout(self._turns)
        layout.addStretch()
        self.setWidget(content)

    def show_row(self, row: Row | None) -> None:
        """At most 50 turns and 20,000 characters; what is left out is said."""
        if row is self._row:
            return
        self._row = row
        empty_layout(self._turns)
        if row is not None:
            shared = row.messages[: row.shared_turns] if row.rejected else row.messages
            for role, text in _parts(row, shared):
                self._turns.addWidget(TurnText(role, text))
            if row.rejected:
                self._turns.addWidget(BothAnswers(row))
        self.verticalScrollBar().setValue(0)


class BothAnswers(QWidget):
    """The chosen and the rejected answer side by side, or below each other where room is short."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.setObjectName("data_both_answers")
        sides = Columns(most=2, least=280, gap=16, line_gap=12)
        for words, icon, color, messages in (
            ("Chosen, the better answer", "check", "ok", row.messages),
            ("Rejected, the worse answer", "x", "bad", row.rejected),
        ):
            side = QWidget()
            column = QVBoxLayout(side)
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(theme().px(8))
            head = QHBoxLayout()
            head.setSpacing(theme().px(6))
            head.addWidget(IconLabel(icon, color))
            head.addWidget(PlainLabel(words, "strong", wrap=True), 1)
            column.addLayout(head)
            for role, text in _parts(row, messages[row.shared_turns :]):
                column.addWidget(TurnText(role, text))
            column.addStretch()
            sides.addWidget(side)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(sides)


class TurnText(QWidget):
    """Who, and what they say; it can be marked and copied."""

    def __init__(self, role: str, text: str) -> None:
        super().__init__()
        who = PlainLabel(role, "label")
        at_text_size(who, who.setFixedWidth, 78)
        words = PlainLabel(text, wrap=True)
        words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(who, 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(words, 1)


class RowSource(QWidget):
    """The line as it stands in the file."""

    def __init__(self, *, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._place = PlainLabel("", "muted")
        self._text = QPlainTextEdit()
        self._text.setObjectName(name)
        self._text.setAccessibleName("The row as it stands in the file")
        self._text.setReadOnly(True)
        self._text.setWordWrapMode(QTextOption.WrapMode.WrapAnywhere)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(6))
        layout.addWidget(self._place)
        layout.addWidget(self._text, 1)
        self._on_theme_changed()
        theme().changed.connect(self._on_theme_changed)

    def show_row(self, row: Row | None) -> None:
        """Says so where the file has changed since it was read."""
        if row is None:
            self._place.setText("")
            self._text.setPlainText("")
            return
        self._place.setText(f"Line {row.line:,}" + (f" of {row.file}" if row.file else ""))
        if row.source is None:
            self._text.setPlainText(
                "The file has changed since it was read, or holds no lines of text. "
                "Of a compressed file only the beginning is kept."
            )
        else:
            self._text.setPlainText(visible_text(row.source, LONGEST - 60))

    def _on_theme_changed(self) -> None:
        self._text.setFont(theme().font("mono"))


def _parts(row: Row, messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Role and words of each of these turns of the row."""
    if row.text is not None:
        return [("text", row.text)]
    parts, left = [], MOST_CHARACTERS
    for message in messages[:MOST_TURNS]:
        text = _words(message)
        if left <= 0:
            break
        parts.append((message.role, visible_text(text, min(left, LONGEST - 60))))
        left -= len(text)
    hidden = len(messages) - len(parts)
    return parts + ([("", f"and {hidden:,} more turns")] if hidden else [])


def _words(message: Message) -> str:
    calls = [f"calls {call.name}({call.arguments})" for call in message.tool_calls]
    thought = [f"thinks: {message.reasoning}"] if message.reasoning else []
    return "\n".join(part for part in (*thought, message.content, *calls) if part)
