"""A section of Settings: rows of words and a control, its own way back to the defaults, found by a word."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, ElidedLabel, LinkButton, PlainLabel, Separator


class SettingRow(QWidget):
    """Words at the left, controls at the right, a note below that may turn into a reason."""

    def __init__(self, label: str, note: str, *controls: QWidget) -> None:
        super().__init__()
        self._words = f"{label} {note}".lower()
        self.label = PlainLabel(label)
        self._note = PlainLabel(note, "note", wrap=True)
        self._note.setVisible(bool(note))
        if controls:
            self.label.setBuddy(controls[0])
        self.words = words = QVBoxLayout()
        words.setSpacing(theme().px(1))
        words.addWidget(self.label)
        words.addWidget(self._note)
        words.addStretch()
        self.row = QHBoxLayout(self)
        self.row.setContentsMargins(0, 0, 0, 0)
        self.row.setSpacing(theme().px(12))
        self.row.addLayout(words, 1)
        for control in controls:
            self.row.addWidget(control, 0, Qt.AlignmentFlag.AlignVCenter)

    def set_note(self, note: str, tone: str = "") -> None:
        self._note.setText(note)
        self._note.set_tone(tone)
        self._note.setVisible(bool(note))

    def note(self) -> str:
        return self._note.text()

    def matches(self, word: str) -> bool:
        return word in self._words


class FolderRow(SettingRow):
    """A folder by its path, with what lies in it."""

    def __init__(self, label: str, name: str, *controls: QWidget) -> None:
        super().__init__(label, "counting…", *controls)
        self.path = ElidedLabel("", "mono", name=name)
        self.path.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.words.insertWidget(1, self.path)


class PairsRow(SettingRow):
    """A small table: what, and beside it what about it."""

    def __init__(self, label: str, pairs: Sequence[tuple[str, str]]) -> None:
        table = QWidget()
        grid = QGridLayout(table)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(theme().px(16))
        grid.setVerticalSpacing(theme().px(4))
        grid.setColumnStretch(0, 2)
        grid.setColumnStretch(1, 3)
        for row, (left, right) in enumerate(pairs):
            top = Qt.AlignmentFlag.AlignTop
            grid.addWidget(PlainLabel(left, "label"), row, 0, top)
            grid.addWidget(PlainLabel(right, "muted", wrap=True), row, 1, top)
        super().__init__(label, "", table)
        self.row.setAlignment(table, Qt.AlignmentFlag(0))  # as high as its lines need, whatever its width
        self.row.setStretch(0, 2)
        self.row.setStretch(1, 3)
        self._words += " ".join(f"{left} {right}" for left, right in pairs).lower()


class Section(Card):
    """One card of Settings."""

    def __init__(self, title: str, name: str, *, resettable: bool = True) -> None:
        super().__init__(title, name=f"settings_{name}")
        self._title = title.lower()
        self._rows: list[SettingRow] = []
        self._lines: dict[SettingRow, Separator] = {}
        self.reset = LinkButton("Reset", "rotate-ccw", name=f"settings_reset_{name}")
        self.reset.setAccessibleName(f"{title}: back to the defaults")
        if resettable:
            self.add_to_head(self.reset)
        else:
            self.reset.setParent(self)
            self.reset.hide()

    def add(self, row: SettingRow) -> None:
        line = Separator()
        line.setVisible(bool(self._rows))
        self._lines[row] = line
        self._rows.append(row)
        self.body.addWidget(line)
        self.body.addWidget(row)

    def show_matching(self, word: str) -> None:
        """Only the rows that speak of it; all where the title does, or where the word is empty."""
        whole = not word or word in self._title
        shown = [row for row in self._rows if whole or row.matches(word)]
        for row in self._rows:
            row.setVisible(row in shown)
            self._lines[row].setVisible(row in shown[1:])
        self.setVisible(bool(shown) or whole)
