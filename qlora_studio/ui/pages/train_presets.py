"""The presets as large choices: each says in a line what it does and costs."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QButtonGroup, QRadioButton, QVBoxLayout, QWidget

from qlora_studio.config.presets import Preset
from qlora_studio.state.draft import RunDraft
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, PlainLabel
from qlora_studio.ui.widgets.columns import Columns

SHOWN = ("Gentle tone change", "New skill", "Smallest memory")


class PresetChoice(Card):
    """chosen: the path of the preset's file."""

    chosen = Signal(str)

    def __init__(self, draft: RunDraft) -> None:
        super().__init__("What for", "", name="train_preset_choice")
        self._draft = draft
        self._buttons: list[tuple[QRadioButton, Preset]] = []
        self._group = QButtonGroup(self)
        row = Columns(most=3, least=190, gap=16, line_gap=10)
        for preset in (item for item in draft.presets if item.name in SHOWN):
            button = QRadioButton(preset.name)
            button.setObjectName(f"train_preset_{preset.name.lower().replace(' ', '_')}")
            button.setAccessibleName(preset.name)
            button.setAccessibleDescription(preset.summary)
            button.clicked.connect(lambda _=False, preset=preset: self._on_clicked(preset))
            self._group.addButton(button)
            self._buttons.append((button, preset))
            choice = QWidget()
            column = QVBoxLayout(choice)
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(theme().px(4))
            column.addWidget(button)
            column.addWidget(PlainLabel(preset.summary, "note", wrap=True))
            column.addStretch()
            row.addWidget(choice)
        self.body.addLayout(row)

    def refresh(self) -> None:
        """After the draft changed: none is marked where another preset is in force."""
        self._group.setExclusive(False)
        for button, preset in self._buttons:
            button.setChecked(preset is self._draft.preset)
        self._group.setExclusive(True)

    def _on_clicked(self, preset: Preset) -> None:
        self.chosen.emit(str(preset.path))
