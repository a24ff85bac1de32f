"""A chip: one state or tag in a word or two, with an icon that says the same as its colour."""

from __future__ import annotations

from PySide6.QtWidgets import QFrame, QHBoxLayout, QSizePolicy, QWidget

from qlora_studio.plain_text import visible_line
from qlora_studio.ui.icons import TONE_ICONS, tone_color
from qlora_studio.ui.theme import Tone, theme
from qlora_studio.ui.widgets.cards import IconLabel
from qlora_studio.ui.widgets.text import PlainLabel, set_property


class Chip(QFrame):
    """tone: ok warn bad accent neutral. The tone's own icon unless one is named; neutral has none."""

    def __init__(
        self, text: str = "", tone: str = Tone.NEUTRAL, icon_name: str = "", *, name: str = "",
        parent: QWidget | None = None,
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self.setObjectName(name)
        self._icon = IconLabel("info", "muted", 13)
        self._text = PlainLabel()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(theme().px(8), 0, theme().px(9), 0)
        layout.setSpacing(theme().px(5))
        layout.addWidget(self._icon)
        layout.addWidget(self._text)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.set(text, tone, icon_name)

    def set(self, text: str, tone: str = Tone.NEUTRAL, icon_name: str = "") -> None:
        tone = Tone(tone)
        set_property(self, "tone", tone.value)
        self._text.setText(visible_line(text, 120))
        set_property(self._text, "tone", "" if tone is Tone.NEUTRAL else tone.value)
        self._icon.set_icon(icon_name or TONE_ICONS[tone], tone_color(tone))
        self._icon.setVisible(bool(icon_name) or tone is not Tone.NEUTRAL)
        self.setAccessibleName(text)

    def text(self) -> str:
        return self._text.text()

    def tone(self) -> Tone:
        return Tone(self.property("tone"))
