"""Widgets side by side, and on as many lines as the width asks for."""

from __future__ import annotations

from PySide6.QtCore import QPoint, QRect, QSize, Qt
from PySide6.QtWidgets import QLayout, QLayoutItem, QWidget

from qlora_studio.ui.theme import theme


class Flow(QLayout):
    """Like words on a page. The last widget may stand at the right edge of its line, or lines in the middle.

    gap, line_gap: px at 100 % between widgets, and between lines
    """

    def __init__(
        self,
        *,
        gap: int,
        line_gap: int = 0,
        last_at_right: bool = False,
        centred: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._heights: dict[int, int] = {}  # by width: the layouts around it ask again and again
        self.setContentsMargins(0, 0, 0, 0)
        self._gap_at_100, self._line_gap_at_100, self._last_at_right = gap, line_gap, last_at_right
        self._centred = centred
        self._items: list[QLayoutItem] = []

    @property
    def _gap(self) -> int:
        return theme().px(self._gap_at_100)

    @property
    def _line_gap(self) -> int:
        return theme().px(self._line_gap_at_100)

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

    def invalidate(self) -> None:
        self._heights.clear()
        super().invalidate()

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        if width not in self._heights:
            self._heights[width] = self._place(QRect(0, 0, width, 0), move=False)
        return self._heights[width]

    def sizeHint(self) -> QSize:
        shown = [item.sizeHint() for item in self._items if not item.isEmpty()]
        width = sum(size.width() for size in shown) + self._gap * max(len(shown) - 1, 0)
        return QSize(width, max((size.height() for size in shown), default=0))

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
        lines = self._lines(rect.width())
        top = rect.top()
        for line in lines:
            sizes = [_size_within(rect.width(), item) for item in line]
            height = max(size.height() for size in sizes)
            left = rect.left()
            if self._centred:
                taken = sum(item.sizeHint().width() for item in line) + self._gap * (len(line) - 1)
                left += max((rect.width() - taken) // 2, 0)
            for item, size in zip(line, sizes, strict=True):
                if self._last_at_right and item is self._items[-1]:
                    left = max(left, rect.right() + 1 - size.width())
                if move:
                    item.setGeometry(QRect(QPoint(left, top + (height - size.height()) // 2), size))
                left += size.width() + self._gap
            top += height + self._line_gap
        return top - rect.top() - (self._line_gap if lines else 0)

    def _lines(self, room: int) -> list[list[QLayoutItem]]:
        lines: list[list[QLayoutItem]] = []
        used = 0
        for item in self._items:
            if item.isEmpty():  # its widget is hidden
                continue
            width = item.sizeHint().width()
            if not lines or used + self._gap + width > room:
                lines.append([item])
                used = width
            else:
                lines[-1].append(item)
                used += self._gap + width
        return lines


def _size_within(width: int, item: QLayoutItem) -> QSize:
    """As it wants to be; where that is too wide, as high as it is then, such as a flow within this one."""
    size = item.sizeHint()
    if size.width() > width:
        size.setWidth(width)
        if item.hasHeightForWidth():
            size.setHeight(item.heightForWidth(width))
    return size
