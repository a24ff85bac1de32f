"""Every key of the window and its pages stands in the page's menu, where a person can find it."""

from __future__ import annotations

import pytest
from PySide6.QtGui import QAction

from qlora_studio.ui.shell import Shell

EVERYWHERE = {"Ctrl+F", "F1", "F5", "Ctrl+Z", "Ctrl+Shift+Z", "Esc", "Ctrl+Q"}
OF_PAGES = {
    "home": {"Enter", "Ctrl+O"},
    "models": {"Return", "Del", "Ctrl+O"},
    "data": {"Ctrl+O", "Up", "Down", "PgUp", "PgDown"},
    "train": {"Ctrl+Return", "Ctrl+S", "Ctrl+O", "Ctrl+D", "Ctrl+Shift+C"},
    "runs": {"Enter", "Space", "Ctrl+R", "Ctrl+T", "F2", "Del"},
    "monitor": {
        *("Ctrl+P", "Ctrl+S", "Ctrl+.", "Ctrl+E", "F", "L", "C", "T"),
        *("Left", "Right", "Shift+Left", "Shift+Right", "Home", "End"),
    },
    "chat": {"Enter", "Shift+Enter", "Esc", "Ctrl+R", "Up", "Ctrl+N", "Ctrl+B"},
    "export": {"Ctrl+Return", "Esc"},
    "settings": set(),
}


@pytest.fixture
def shell(app, qtbot):
    window = Shell(app)
    qtbot.addWidget(window)
    window.show()
    return window


@pytest.mark.parametrize("name", list(OF_PAGES))
def test_the_menu_of_a_page_shows_its_keys_and_those_of_the_window(shell, name):
    menu = shell.open_page(name).menu
    menu.aboutToShow.emit()
    assert EVERYWHERE | OF_PAGES[name] <= {_key(action) for action in menu.actions()}


def test_pages_are_gone_to_by_number(shell):
    menu = shell.open_page("home").menu
    menu.aboutToShow.emit()
    go_to = next(action.menu() for action in menu.actions() if action.menu() is not None)
    keys = {_key(action) for action in go_to.actions()}
    assert {*(f"Ctrl+{number}" for number in range(1, 8)), "Ctrl+,", "Ctrl+M"} <= keys


def _key(action: QAction) -> str:
    """Of its own, or behind the tab where a widget of the page takes it."""
    return action.shortcut().toString() or action.text().partition("\t")[2]
