"""The style sheet: areas in sight wear a new one at once, hidden ones when they are shown."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QStackedWidget, QVBoxLayout, QWidget

from qlora_studio.state.app import AppState
from qlora_studio.ui.dress import Dress
from qlora_studio.ui.pages import page_factories
from qlora_studio.ui.quit_guard import QuitGuard
from qlora_studio.ui.shell import Shell
from qlora_studio.ui.theme import ThemeChoice, theme
from qlora_studio.ui.widgets import PlainLabel, Popover, SecondaryButton

_OWN = Qt.FindChildOption.FindDirectChildrenOnly


@pytest.fixture
def look(qapp):
    found = theme()
    found.set_choice(ThemeChoice.LIGHT)
    yield found
    found.set_choice(ThemeChoice.SYSTEM)
    found.set_text_size(100)


@pytest.fixture
def shell(qtbot, monkeypatch):
    app = AppState()
    monkeypatch.setattr(app.machine, "start", lambda: None)
    window = Shell(app)
    qtbot.addWidget(window)
    window.show()
    yield window
    app.close()


class _Area(QWidget):
    """A button in an area."""

    def __init__(self) -> None:
        super().__init__()
        self.dress = Dress(self)
        self.button = SecondaryButton("Go on")
        self.title = PlainLabel("Words", "title")
        layout = QVBoxLayout(self)
        layout.addWidget(self.button)
        layout.addWidget(self.title)


@pytest.fixture
def areas(qtbot, look):
    stack = QStackedWidget()
    qtbot.addWidget(stack)
    for _ in range(2):
        stack.addWidget(_Area())
    stack.show()
    stack.setCurrentIndex(1)
    stack.setCurrentIndex(0)
    return stack


def test_what_is_in_sight_changes_at_once(areas, look):
    area = areas.widget(0)
    look.set_text_size(200)
    assert area.dress.is_worn
    assert area.button.minimumHeight() == 60
    assert area.title.font().pixelSize() == 40


def test_what_is_hidden_changes_before_it_is_seen_again(areas, look):
    area = areas.widget(1)
    look.set_text_size(200)
    look.set_choice(ThemeChoice.DARK)
    assert not area.dress.is_worn
    areas.setCurrentIndex(1)
    assert area.dress.is_worn
    assert area.title.font().pixelSize() == 40
    assert area.button.palette().buttonText().color() == look.color("text")


def test_a_hidden_area_can_be_changed_ahead(areas, look, qtbot):
    area = areas.widget(1)
    look.set_text_size(150)
    with qtbot.waitSignal(area.dress.changed):
        area.dress.put_on()
    assert area.title.font().pixelSize() == 30


def test_a_change_that_was_taken_back_costs_a_hidden_area_nothing(areas, look, qtbot):
    area = areas.widget(1)
    look.set_text_size(150)
    look.set_text_size(100)
    with qtbot.assertNotEmitted(area.dress.changed):
        areas.setCurrentIndex(1)


def test_all_of_the_window_is_dressed(shell):
    for name in page_factories():
        shell.open_page(name)
    shell._toasts.show("Saved", "ok", "Undo", print)
    bare = [widget for widget in shell.findChildren(QWidget) if not _is_dressed(widget)]
    assert bare == [shell.centralWidget(), shell._stack]  # they show nothing of their own


def test_pages_that_are_hidden_change_ahead(shell, look, qtbot):
    pages = [shell.open_page(name) for name in ("settings", "data", "home")]
    with qtbot.waitSignal(shell.ahead.finished):
        look.set_text_size(150)
        assert [page.dress.is_worn for page in pages] == [False, False, True]
    assert all(page.dress.is_worn for page in pages)


def test_what_opens_above_the_window_is_dressed(shell):
    button = shell.findChild(SecondaryButton)
    popover = Popover(button, "Stop the run?", "Stop", "Go on", name="question")
    guard = QuitGuard("Training is at step 3.", "Save first.", can_hide=False, parent=shell)
    assert _is_dressed(popover)
    assert _is_dressed(guard)


def _is_dressed(widget: QWidget | None) -> bool:
    while widget is not None and widget.findChild(Dress, options=_OWN) is None:
        widget = widget.parentWidget()
    return widget is not None
