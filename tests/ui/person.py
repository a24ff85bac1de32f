"""What a person does with a page, and what they can read on it."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtWidgets import QLabel, QWidget
from pytestqt.qtbot import QtBot

from qlora_studio.ui.widgets import ElidedLabel


def click(qtbot: QtBot, page: QWidget, name: str) -> None:
    """On the widget of that name."""
    qtbot.mouseClick(found(page, name), Qt.MouseButton.LeftButton)


def found(page: QWidget, name: str) -> QWidget:
    """The widget of that name, which must be there."""
    QCoreApplication.sendPostedEvents()  # widgets that were just added are shown by an event
    widget = page.findChild(QWidget, name)
    assert widget is not None, f"{name} is not on the page"
    return widget


def words(page: QWidget, name: str) -> str:
    """All that is to be read inside the widget of that name, or on it."""
    widget = found(page, name)
    labels = [widget] if isinstance(widget, QLabel) else widget.findChildren(QLabel)
    shown = [text_of(label) for label in labels if label.isVisibleTo(page)]
    return " ".join(text for text in shown if text)  # an icon has none


def text_of(label: QLabel) -> str:
    """Whole, also where it is elided."""
    return label.full_text() if isinstance(label, ElidedLabel) else label.text()
