"""Theme, text size and motion as the person chose them in Settings, put in force as they change."""

from __future__ import annotations

import sys

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication

from qlora_studio.state.preferences import PreferencesState
from qlora_studio.ui.theme import ThemeChoice, theme


def follow_preferences(preferences: PreferencesState) -> None:
    """Now, and at each change."""

    def apply(_: str = "") -> None:
        values = preferences.values
        look = theme()
        if values.theme in list(ThemeChoice):
            look.set_choice(ThemeChoice(values.theme))
        look.set_text_size(values.text_size)
        reduced = {"on": True, "off": False}.get(values.reduced_motion, _desktop_reduces_motion())
        look.set_reduced_motion(reduced)

    apply()
    preferences.changed.connect(apply)


def _desktop_reduces_motion() -> bool:
    """Windows says so through Qt; the other desktops don't."""
    return sys.platform == "win32" and not QApplication.isEffectEnabled(Qt.UIEffect.UI_General)
