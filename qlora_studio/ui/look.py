"""Theme, text size and motion as the person chose them in Settings, put in force as they change."""

from __future__ import annotations

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
        look.set_reduced_motion(values.reduced_motion == "on")

    apply()
    preferences.changed.connect(apply)
