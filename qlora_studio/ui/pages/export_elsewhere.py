"""The card with ready lines for what was exported: how other programs load it."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.models.elsewhere import ReadyLine
from qlora_studio.state.export import ExportState
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, ElidedLabel, IconButton, PlainLabel

MOST_LINES = 3


class ElsewhereCard(Card):
    """copied: a line is in the clipboard now; for which program."""

    copied = Signal(str)

    def __init__(self) -> None:
        super().__init__("Use it elsewhere", name="export_elsewhere")
        self._rows = [_Row(number) for number in range(MOST_LINES)]
        for row in self._rows:
            self.body.addWidget(row)
            row.copy.clicked.connect(lambda _=False, row=row: self._on_copy(row))

    def refresh(self, state: ExportState) -> None:
        """After an export ended, or another run was chosen."""
        lines = state.ready_lines
        self.setVisible(bool(lines))
        for place, row in enumerate(self._rows):
            row.setVisible(place < len(lines))
            if place < len(lines):
                row.show_line(lines[place])

    def _on_copy(self, row: _Row) -> None:
        QGuiApplication.clipboard().setText(row.line.text)
        self.copied.emit(row.line.program)


class _Row(QWidget):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.line = ReadyLine("", "")
        self._program = PlainLabel("", "label")
        self._text = ElidedLabel("", "command", name=f"export_line_{number}")
        self.copy = IconButton("copy", "Copy the line", name=f"export_line_{number}_copy", small=True)
        below = QHBoxLayout()
        below.setSpacing(theme().px(4))
        below.addWidget(self._text, 1)
        below.addWidget(self.copy)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(2))
        layout.addWidget(self._program)
        layout.addLayout(below)

    def show_line(self, line: ReadyLine) -> None:
        self.line = line
        self._program.setText(line.program)
        self._text.setText(line.text)
        words = f"Copy the line for {line.program}"
        self.copy.setAccessibleName(words)
        self.copy.setToolTip(words)
