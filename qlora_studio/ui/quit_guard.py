"""The one question the window asks in a box of its own: what becomes of what isn't saved when it closes."""

from __future__ import annotations

from enum import Enum

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.ui.dress import Dress
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import DangerButton, IconLabel, PlainLabel, PrimaryButton, SecondaryButton


class Leave(Enum):
    """What the person chose."""

    STAY = 0
    SAVE_AND_QUIT = 1
    HIDE = 2
    QUIT_UNSAVED = 3


class QuitGuard(QDialog):
    """Esc and the cross mean stay. `finished` tells the number of a `Leave`.

    can_save: False: what the words name is lost with the window
    """

    def __init__(
        self, words: str, note: str, *, can_save: bool = True, can_hide: bool, parent: QWidget
    ) -> None:
        super().__init__(parent)
        self.setObjectName("quit_guard")
        self.setWindowTitle("Quit QLoRA Studio")
        self.setAccessibleName(words)
        self._stay = SecondaryButton("Stay", name="quit_stay")
        self._hide = SecondaryButton("Hide the window, go on", name="quit_hide")
        self._save = PrimaryButton("Save and quit", "save", name="quit_save")
        self._lose = DangerButton("Quit without it", name="quit_unsaved")
        self._stay.clicked.connect(self.reject)
        self._hide.clicked.connect(lambda: self.done(Leave.HIDE.value))
        self._save.clicked.connect(lambda: self.done(Leave.SAVE_AND_QUIT.value))
        self._lose.clicked.connect(lambda: self.done(Leave.QUIT_UNSAVED.value))
        self._build(
            words,
            note,
            IconLabel("activity", "accent", 20) if can_save else IconLabel("circle-alert", "bad", 20),
        )
        self._hide.setVisible(can_hide)
        self._save.setVisible(can_save)
        self._lose.setVisible(not can_save)
        Dress(self)
        self._stay.setFocus()

    def _build(self, words: str, note: str, icon: IconLabel) -> None:
        title = PlainLabel(words, "card_title", wrap=True)
        title.setMinimumWidth(theme().px(380))
        head = QHBoxLayout()
        head.setSpacing(theme().px(12))
        head.addWidget(icon, 0, Qt.AlignmentFlag.AlignTop)
        head.addWidget(title, 1)
        buttons = QHBoxLayout()
        buttons.setSpacing(theme().px(8))
        buttons.addStretch()
        for button in (self._stay, self._hide, self._lose, self._save):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(theme().px(22), theme().px(20), theme().px(22), theme().px(18))
        layout.setSpacing(theme().px(12))
        layout.addLayout(head)
        layout.addWidget(PlainLabel(note, "muted", wrap=True))
        layout.addSpacing(theme().px(6))
        layout.addLayout(buttons)
