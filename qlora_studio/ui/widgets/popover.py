"""A question asked at the button that raised it, in place of a dialog."""

from __future__ import annotations

import weakref

from PySide6.QtCore import QPoint, Qt, Signal
from PySide6.QtGui import QKeyEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QStyle, QStyleOption, QVBoxLayout, QWidget

from qlora_studio.ui.dress import Dress
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets.buttons import DangerButton, PrimaryButton, SecondaryButton
from qlora_studio.ui.widgets.text import PlainLabel


class Popover(QFrame):
    """Opens under (or above) `anchor`: words, a yes and a no, both verbs. Esc or a click elsewhere means no.

    confirmed: the yes was pressed
    body:      takes further widgets between words and buttons
    """

    confirmed = Signal()

    def __init__(
        self, anchor: QWidget, text: str, yes: str, no: str, *, name: str, danger: bool = False
    ) -> None:
        super().__init__(anchor.window(), Qt.WindowType.Popup | Qt.WindowType.FramelessWindowHint)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setAttribute(Qt.WidgetAttribute.WA_TranslucentBackground)
        self.setObjectName(name)
        self.setAccessibleName(text)
        self._anchor = weakref.ref(anchor)  # a strong one would keep a button alive past its window
        self.body = QVBoxLayout()
        make = DangerButton if danger else PrimaryButton
        self.yes: QPushButton = make(yes, name=f"{name}_yes", small=True)
        self.no: QPushButton = SecondaryButton(no, name=f"{name}_no", small=True)
        self.yes.clicked.connect(self._on_yes)
        self.no.clicked.connect(self.close)
        words = PlainLabel(text, wrap=True)
        words.setMinimumWidth(theme().px(260))
        words.setMaximumWidth(theme().px(360))
        row = QHBoxLayout()
        row.setSpacing(theme().px(8))
        row.addStretch()
        row.addWidget(self.no)
        row.addWidget(self.yes)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(theme().px(14), theme().px(12), theme().px(14), theme().px(12))
        layout.setSpacing(theme().px(10))
        layout.addWidget(words)
        layout.addLayout(self.body)
        layout.addLayout(row)
        Dress(self)

    def open(self) -> None:
        """Shows it where it fits, with the no in focus: Enter by mistake changes nothing."""
        self.adjustSize()
        self.move(self._place())
        self.show()
        self.no.setFocus(Qt.FocusReason.PopupFocusReason)

    def paintEvent(self, event: QPaintEvent) -> None:
        """A window with round corners is see-through: it has to draw its ground itself."""
        option = QStyleOption()
        option.initFrom(self)
        self.style().drawPrimitive(QStyle.PrimitiveElement.PE_Widget, option, QPainter(self), self)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape:
            self.close()
        else:
            super().keyPressEvent(event)

    def _place(self) -> QPoint:
        anchor = self._anchor()
        if anchor is None:
            return self.pos()
        right = anchor.mapToGlobal(QPoint(anchor.width(), 0)).x()
        below = anchor.mapToGlobal(QPoint(0, anchor.height() + 6)).y()
        above = anchor.mapToGlobal(QPoint(0, -6)).y() - self.height()
        screen = anchor.screen().availableGeometry()
        x = min(max(screen.left() + 8, right - self.width()), screen.right() - self.width() - 8)
        return QPoint(x, below if below + self.height() <= screen.bottom() else above)

    def _on_yes(self) -> None:
        self.close()
        self.confirmed.emit()
