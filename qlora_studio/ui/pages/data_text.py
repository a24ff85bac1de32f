"""One row as people write it: who says what, and the line of the file it came from."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QTextOption
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPlainTextEdit, QScrollArea, QVBoxLayout, QWidget

from qlora_studio.data.conversation import Message, Row
from qlora_studio.plain_text import LONGEST, visible_text
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import PlainLabel, empty_layout

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
        for role, text in _parts(row) if row is not None else []:
            self._turns.addWidget(TurnText(role, text))
        self.verticalScrollBar().setValue(0)


class TurnText(QWidget):
    """Who, and what they say; it can be marked and copied."""

    def __init__(self, role: str, text: str) -> None:
        super().__init__()
        who = PlainLabel(role, "label")
        who.setFixedWidth(theme().px(78))
        words = PlainLabel(text, wrap=True)
        words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(who, 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(words, 1)


class RowSource(QPlainTextEdit):
    """The line as it stands in the file."""

    def __init__(self, *, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName("The row as it stands in the file")
        self.setReadOnly(True)
        self.setFont(theme().font("mono"))
        self.setWordWrapMode(QTextOption.WrapMode.WrapAnywhere)

    def show_row(self, row: Row | None) -> None:
        """Says so where the file has changed since it was read."""
        if row is None:
            self.setPlainText("")
        elif row.source is None:
            self.setPlainText("There is no line to show: the file has changed, or it holds no lines of text.")
        else:
            self.setPlainText(visible_text(row.source, LONGEST - 60))


def _parts(row: Row) -> list[tuple[str, str]]:
    """Role and words of each turn."""
    if row.text is not None:
        return [("text", row.text)]
    parts, left = [], MOST_CHARACTERS
    for message in row.messages[:MOST_TURNS]:
        text = _words(message)
        if left <= 0:
            break
        parts.append((message.role, visible_text(text, min(left, LONGEST - 60))))
        left -= len(text)
    hidden = len(row.messages) - len(parts)
    return parts + ([("", f"and {hidden:,} more turns")] if hidden else [])


def _words(message: Message) -> str:
    calls = [f"calls {call.name}({call.arguments})" for call in message.tool_calls]
    thought = [f"thinks: {message.reasoning}"] if message.reasoning else []
    return "\n".join(part for part in (*thought, message.content, *calls) if part)
