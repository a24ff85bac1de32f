"""What doesn't fit where it stands: words that are cut, controls that are squeezed, run out or overlap."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from PySide6.QtCore import QPoint, QRect
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractScrollArea,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QScrollArea,
    QWidget,
)

from qlora_studio.ui.widgets import ElidedLabel

CONTROLS = (QAbstractButton, QComboBox, QAbstractSpinBox, QLineEdit)


def clipped(window: QWidget) -> list[str]:
    """Each thing that isn't whole, by name, words and sizes; what has to be scrolled to counts as whole."""
    shown = list(_shown(window))
    return [
        *(f"cut: {_named(label)}" for label in shown if isinstance(label, QLabel) and _is_cut(label)),
        *(f"squeezed: {_named(item)}" for item in shown if isinstance(item, CONTROLS) and _is_squeezed(item)),
        *(f"runs out: {_named(item)}" for item in shown if _runs_out(item, window)),
        *(f"overlap: {_named(one)} and {_named(other)}" for one, other in _overlapping(shown, window)),
    ]


def _shown(window: QWidget) -> Iterator[QWidget]:
    """Labels with words, and controls; not the parts that Qt puts into its own."""
    for widget in window.findChildren(QWidget):
        is_label = isinstance(widget, QLabel) and bool(widget.text())
        if (is_label or isinstance(widget, CONTROLS)) and widget.isVisible() and not _is_part(widget):
            yield widget


def _is_part(widget: QWidget) -> bool:
    parent = widget.parentWidget()
    while parent is not None:
        if isinstance(parent, QAbstractButton | QAbstractSpinBox | QComboBox | QLineEdit):
            return not isinstance(parent, QAbstractButton) or not isinstance(widget, QLabel)
        if isinstance(parent, QAbstractScrollArea) and not isinstance(parent, QScrollArea):
            return True
        parent = parent.parentWidget()
    return False


def _is_cut(label: QLabel) -> bool:
    """Narrower than its words, or, where they wrap, than the longest of them; or lower than its lines."""
    if isinstance(label, ElidedLabel):
        return label.height() < label.sizeHint().height()
    if label.wordWrap():
        narrow = label.width() < label.minimumSizeHint().width()
        return narrow or label.height() < label.heightForWidth(label.width())
    return label.width() < label.sizeHint().width() or label.height() < label.sizeHint().height()


def _is_squeezed(control: QWidget) -> bool:
    """A field is as high as the style sheet has it, whatever Qt would have; its words need their line."""
    if isinstance(control, QAbstractButton):
        return control.width() < control.sizeHint().width() or control.height() < control.sizeHint().height()
    line = control.fontMetrics().height() + 4
    return control.width() < control.minimumSizeHint().width() or control.height() < line


def _runs_out(widget: QWidget, window: QWidget) -> bool:
    """Over an edge of the window, or of an area that scrolls in the other direction only."""
    area = widget.parentWidget()
    while area is not None and area is not window:
        if isinstance(area.parentWidget(), QScrollArea):  # what scrolls: its height is no limit
            left = widget.mapTo(area, QPoint(0, 0)).x()
            return left < 0 or left + widget.width() > area.width()
        if not area.rect().contains(QRect(widget.mapTo(area, QPoint(0, 0)), widget.size())):
            return True
        area = area.parentWidget()
    return not window.rect().contains(QRect(widget.mapTo(window, QPoint(0, 0)), widget.size()))


def _overlapping(shown: list[QWidget], window: QWidget) -> Iterator[tuple[QWidget, QWidget]]:
    """Two that stand over each other and aren't parts of one button."""
    places = [(widget, QRect(widget.mapTo(window, QPoint(0, 0)), widget.size())) for widget in shown]
    for (one, here), (other, there) in combinations(places, 2):
        apart = not one.isAncestorOf(other) and not other.isAncestorOf(one)
        if apart and here.intersects(there) and _area(one) is _area(other):
            yield one, other


def _area(widget: QWidget) -> QWidget | None:
    """The scrolled area it moves with."""
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QScrollArea):
        parent = parent.parentWidget()
    return parent


def _named(widget: QWidget) -> str:
    words = widget.text() if isinstance(widget, QLabel | QAbstractButton) else widget.accessibleName()
    wanted = widget.sizeHint()
    return (
        f"{widget.objectName() or type(widget).__name__} {words[:40]!r} "
        f"({widget.width()}x{widget.height()}, wants {wanted.width()}x{wanted.height()})"
    )
