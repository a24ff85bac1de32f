"""Sizes that were drawn at 100 % and follow the text size, also while the window is open."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject
from PySide6.QtWidgets import QBoxLayout, QGridLayout, QLayout, QWidget

from qlora_studio.ui.theme import theme


def at_text_size(widget: QWidget, set_size: Callable[[int], object], pixels: float) -> None:
    """`at_text_size(box, box.setFixedWidth, 110)`: now, and again at each other text size."""
    _Follower(widget, set_size, pixels)


class _Follower(QObject):
    """Lives as long as the widget."""

    def __init__(self, widget: QWidget, set_size: Callable[[int], object], pixels: float) -> None:
        super().__init__(widget)
        self._set_size, self._pixels = set_size, pixels
        self._at = 0  # px that were set last
        self._apply()
        theme().changed.connect(self._apply)

    def _apply(self) -> None:
        wanted = theme().px(self._pixels)
        if wanted != self._at:
            self._at = wanted
            self._set_size(wanted)


def rescale_layouts(area: QWidget, factor: float) -> None:
    """Margins and gaps of everything in `area`, which were drawn at another text size: factor, new by old."""
    for layout in area.findChildren(QLayout):
        margins = layout.contentsMargins()
        sides = (margins.left(), margins.top(), margins.right(), margins.bottom())
        layout.setContentsMargins(*(round(side * factor) for side in sides))
        if isinstance(layout, QGridLayout):
            layout.setHorizontalSpacing(_scaled(layout.horizontalSpacing(), factor))
            layout.setVerticalSpacing(_scaled(layout.verticalSpacing(), factor))
        elif isinstance(layout, QBoxLayout):
            layout.setSpacing(_scaled(layout.spacing(), factor))


def _scaled(gap: int, factor: float) -> int:
    return round(gap * factor) if gap > 0 else gap  # -1: the style's own
