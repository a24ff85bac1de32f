"""Every page of the real window: controls that can be named, reached and heard, and words that are whole."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QScrollBar,
    QSlider,
    QTextEdit,
    QWidget,
)

from qlora_studio.state.app import AppState
from qlora_studio.ui.pages import page_factories
from qlora_studio.ui.shell import Shell
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import ElidedLabel, PlainLabel

CONTROLS = (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QTextEdit,
)


@pytest.fixture
def shell(qtbot, monkeypatch):
    app = AppState()
    monkeypatch.setattr(app.machine, "start", lambda: None)
    window = Shell(app)
    qtbot.addWidget(window)
    window.show()
    yield window
    app.close()
    theme().set_text_size(100)


@pytest.mark.parametrize("name", list(page_factories()))
def test_every_control_has_a_name_a_voice_and_a_place_for_the_keyboard(shell, name):
    page = shell.open_page(name)
    controls = _controls(page)
    shown = [control for control in controls if control.isVisibleTo(page)]
    names = [control.objectName() for control in shown]
    assert [repr(control) for control in controls if not control.objectName()] == []
    assert [control.objectName() for control in shown if not _spoken(control)] == []
    assert [control.objectName() for control in shown if not _reachable(control)] == []
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", list(page_factories()))
def test_the_wheel_changes_no_value(shell, name):
    page = shell.open_page(name)
    fields = [field for field in _controls(page) if isinstance(field, QAbstractSpinBox | QComboBox | QSlider)]
    before = [_value(field) for field in fields]
    for field in fields:
        _turn_wheel(field)
    assert [_value(field) for field in fields] == before


@pytest.mark.parametrize("width", [1440, 1024])
@pytest.mark.parametrize("name", list(page_factories()))
def test_no_words_are_cut_off(shell, qtbot, name, width):
    page = shell.open_page(name)
    shell.resize(width, 900)
    qtbot.waitUntil(lambda: _cut(page) == [], timeout=3000)


@pytest.mark.parametrize("text_size", [150, 200])
@pytest.mark.parametrize("name", ["home", "settings"])
def test_no_words_are_cut_off_where_text_is_large(shell, qtbot, name, text_size):
    page = shell.open_page(name)
    theme().set_text_size(text_size)
    qtbot.waitUntil(lambda: _cut(page) == [], timeout=3000)


def _controls(page: QWidget) -> list[QWidget]:
    """What a person can use; the parts that Qt puts into its own widgets are left out."""
    return [
        widget
        for widget in page.findChildren(QWidget)
        if isinstance(widget, CONTROLS) and not isinstance(widget, QScrollBar) and not _is_part(widget)
    ]


def _is_part(widget: QWidget) -> bool:
    parent = widget.parentWidget()
    while parent is not None:
        if isinstance(parent, QAbstractSpinBox | QComboBox | QAbstractItemView | QLineEdit):
            return True
        parent = parent.parentWidget()
    return False


def _spoken(control: QWidget) -> str:
    """What a screen reader says: a button's own words where it has no other name."""
    words = control.text() if isinstance(control, QAbstractButton) else ""
    return control.accessibleName() or words


def _reachable(control: QWidget) -> bool:
    return not control.isEnabled() or bool(control.focusPolicy() & Qt.FocusPolicy.TabFocus)


def _cut(page: QWidget) -> list[str]:
    """Labels narrower than their words, or, where they wrap, lower than their lines."""
    labels = [label for label in page.findChildren(PlainLabel) if label.isVisibleTo(page) and label.text()]
    return [label.text() for label in labels if not isinstance(label, ElidedLabel) and _is_cut(label)]


def _is_cut(label: PlainLabel) -> bool:
    if label.wordWrap():
        return label.height() < label.heightForWidth(label.width())
    return label.width() < label.sizeHint().width()


def _value(field: QWidget) -> object:
    return field.currentIndex() if isinstance(field, QComboBox) else field.value()


def _turn_wheel(widget: QWidget) -> None:
    middle = QPointF(widget.rect().center())
    event = QWheelEvent(
        middle,
        widget.mapToGlobal(middle),
        QPoint(0, 0),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)
