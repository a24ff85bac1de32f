"""Things in a row: one that is clicked as a whole, and what stays side by side."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QWidget

from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets.buttons import RingedButton
from qlora_studio.ui.widgets.cards import IconLabel
from qlora_studio.ui.widgets.text import ElidedLabel, PlainLabel


class RowButton(RingedButton):
    """Opens what it names."""

    def __init__(
        self, icon_name: str, title: str, note: str = "", *, name: str, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName(f"{title}, {note}" if note else title)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(theme().px(8), 0, theme().px(8), 0)
        layout.setSpacing(theme().px(9))
        layout.addWidget(IconLabel(icon_name, "muted"))
        layout.addWidget(ElidedLabel(title, "label"), 1)
        if note:
            layout.addWidget(PlainLabel(note, "note"))
        for child in self.findChildren(QWidget):
            child.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)

    def sizeHint(self) -> QSize:
        return QSize(theme().px(160), theme().px(30) + 4)  # 4: its edges, as the style sheet has it


def in_line(*widgets: QWidget, gap: int = 6) -> QWidget:
    """Widgets that stay beside each other. gap: px."""
    group = QWidget()
    row = QHBoxLayout(group)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(theme().px(gap))
    for widget in widgets:
        row.addWidget(widget)
    return group
