"""The wheel scrolls the page, never a value: one filter for the whole application."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication, QEvent, QObject
from PySide6.QtWidgets import (
    QAbstractScrollArea,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QScrollBar,
    QWidget,
)

_VALUE_FIELDS = (QComboBox, QAbstractSpinBox, QAbstractSlider)


class WheelFilter(QObject):
    """Install on the application. A wheel turn over a value goes to the scroll area around it."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() is not QEvent.Type.Wheel or not isinstance(watched, QWidget):
            return False
        field = _value_field(watched)
        if field is None:
            return False
        area = _scroll_area_around(field)
        if area is not None:
            QCoreApplication.sendEvent(area.verticalScrollBar(), event)
        return True


def _value_field(widget: QWidget) -> QWidget | None:
    """The combo, spin box or slider that `widget` is, or is a part of (its line edit)."""
    parent = widget.parentWidget()
    for candidate in (widget, parent):
        if isinstance(candidate, _VALUE_FIELDS) and not isinstance(candidate, QScrollBar):
            return candidate
    return None


def _scroll_area_around(widget: QWidget) -> QAbstractScrollArea | None:
    parent = widget.parentWidget()
    while parent is not None:
        if isinstance(parent, QAbstractScrollArea):
            return parent
        parent = parent.parentWidget()
    return None
