"""Fields in columns of one width: as many side by side as the room asks for."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtWidgets import QLayout, QLayoutItem, QWidget

from qlora_studio.ui.theme import theme


class Columns(QLayout):
    """most: columns at the widest; least: of each, or what is in it is narrower than its words; there are
    fewer then. gap, line_gap: between them. All in px at 100 %.
    """

    def __init__(self, *, most: int, least: int, gap: int, line_gap: int) -> None:
        super().__init__()
        self.setContentsMargins(0, 0, 0, 0)
        self._most = most
        self._sizes_at_100 = (least, gap, line_gap)
        self._items: list[QLayoutItem] = []

    @property
    def _least(self) -> int:
        return theme().px(self._sizes_at_100[0])

    @property
    def _gap(self) -> int:
        return theme().px(self._sizes_at_100[1])

    @property
    def _line_gap(self) -> int:
        return theme().px(self._sizes_at_100[2])

    def show_widgets(self, widgets: Sequence[QWidget]) -> None:
        """These, in this order; a widget may come from another layout."""
        while self._items:
            self._items.pop()
        for widget in widgets:
            self.addWidget(widget)
        self.invalidate()

    def addItem(self, item: QLayoutItem) -> None:
        self._items.append(item)
        self.invalidate()

    def count(self) -> int:
        return len(self._items)

    def itemAt(self, index: int) -> QLayoutItem | None:
        return self._items[index] if 0 <= index < len(self._items) else None

    def takeAt(self, index: int) -> QLayoutItem | None:
        return self._items.pop(index) if 0 <= index < len(self._items) else None

    def expandingDirections(self) -> Qt.Orientation:
        return Qt.Orientation(0)

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        return self._place(QRect(0, 0, width, 0), move=False)

    def sizeHint(self) -> QSize:
        width = self._most * self._least + (self._most - 1) * self._gap
        return QSize(width, self.heightForWidth(width))

    def minimumSize(self) -> QSize:
        size = QSize()
        for item in self._items:
            size = size.expandedTo(item.minimumSize())
        return size

    def setGeometry(self, rect: QRect) -> None:
        super().setGeometry(rect)
        self._place(rect, move=True)

    def _place(self, rect: QRect, *, move: bool) -> int:
        """Returns: the height that is taken."""
        shown = [item for item in self._items if not item.isEmpty()]
        across = self._across(rect.width(), shown)
        width = (rect.width() - (across - 1) * self._gap) // across
        top = rect.top()
        for start in range(0, len(shown), across):
            line = shown[start : start + across]
            height = max(_height(item, width) for item in line)
            for column, item in enumerate(line):
                if move:
                    item.setGeometry(QRect(rect.left() + column * (width + self._gap), top, width, height))
            top += height + self._line_gap
        return top - rect.top() - (self._line_gap if shown else 0)

    def _across(self, room: int, shown: Sequence[QLayoutItem]) -> int:
        """How many columns; 4 become 2 rather than 3, so that lines are full."""
        across = self._most
        least = max([self._least, *(item.minimumSize().width() for item in shown)])
        while across > 1 and across * least + (across - 1) * self._gap > room:
            across = across // 2 if across % 2 == 0 else across - 1
        return across


def _height(item: QLayoutItem, width: int) -> int:
    return item.heightForWidth(width) if item.hasHeightForWidth() else item.sizeHint().height()
