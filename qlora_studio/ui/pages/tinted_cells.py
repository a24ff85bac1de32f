"""Table cells in the tone of what they say; the words say it too."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QSize, Qt
from PySide6.QtGui import QPalette
from PySide6.QtWidgets import QStyledItemDelegate, QStyleOptionViewItem

from qlora_studio.ui.icons import icon
from qlora_studio.ui.theme import theme

ICONS = {"ok": "circle-check", "warn": "triangle-alert", "bad": "circle-alert", "accent": "activity"}


class TintedCells(QStyledItemDelegate):
    """Reads the tone from UserRole: ok | warn | bad | accent; empty: an ordinary cell."""

    def initStyleOption(
        self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        super().initStyleOption(option, index)
        tone = index.data(Qt.ItemDataRole.UserRole)
        if tone in ICONS:
            option.icon = icon(ICONS[tone], tone)
            option.decorationSize = QSize(theme().px(16), theme().px(16))
            option.features |= QStyleOptionViewItem.ViewItemFeature.HasDecoration
            for role in (QPalette.ColorRole.Text, QPalette.ColorRole.HighlightedText):
                option.palette.setColor(role, theme().color(tone))
