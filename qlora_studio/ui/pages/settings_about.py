"""The last section of Settings: versions, licences, keys, and a report to send along with a question."""

from __future__ import annotations

import platform
from pathlib import Path

from PySide6.QtCore import qVersion
from PySide6.QtGui import QGuiApplication

from qlora_studio import __version__
from qlora_studio.state.app import AppState
from qlora_studio.ui.pages.settings_rows import PairsRow, Section, SettingRow
from qlora_studio.ui.widgets import SecondaryButton

LICENCES = (
    ("QLoRA Studio", "Apache-2.0"),
    ("Inter, JetBrains Mono (fonts)", "OFL-1.1"),
    ("Lucide (icons)", "ISC; those from Feather MIT"),
    ("Qt for Python", "LGPL-3.0"),
    ("SmolLM2-135M-Instruct (sample model)", "Apache-2.0"),
    ("GSM8K (sample data)", "MIT"),
)
KEYS = (
    ("Ctrl+1 to 7", "the pages, in the order of the rail"),
    ("Ctrl+,", "these settings"),
    ("Ctrl+M", "the run that is going on"),
    ("Ctrl+F", "search this page"),
    ("Ctrl+Z, Ctrl+Shift+Z", "undo, redo"),
    ("F1", "help for the field in focus"),
    ("F5", "look at the disk again"),
    ("Esc", "close what is open"),
    ("Ctrl+Q", "quit"),
)


class AboutSection(Section):
    """What this is, made of what."""

    def __init__(self) -> None:
        super().__init__("About", "about", resettable=False)
        copy = SecondaryButton("Copy report", "copy", name="settings_copy_report", small=True)
        copy.clicked.connect(self._copy)
        self._app: AppState | None = None
        versions = (
            f"Python {platform.python_version()}, Qt {qVersion()}, {platform.system()} {platform.release()}"
        )
        self.add(
            SettingRow(
                f"QLoRA Studio {__version__}", f"{versions}. The report has no secrets and no data.", copy
            )
        )
        self.add(PairsRow("Licences", LICENCES))
        self.add(PairsRow("Keys", KEYS))

    def refresh(self, app: AppState) -> None:
        self._app = app

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(report())
        if self._app is not None:
            self._app.notices.say("Copied the report")


def report() -> str:
    """Versions and the machine's health, the person's folder written `~`: no secrets, no data (R16)."""
    from qlora_studio.config.machine_check import check_machine
    from qlora_studio.memory.devices import card_reading

    card = card_reading()
    lines = [
        f"QLoRA Studio {__version__}",
        f"Python {platform.python_version()}, Qt {qVersion()}",
        f"{platform.system()} {platform.release()} {platform.machine()}",
        *(f"{line.tone:<4} {line.name}: {line.words}" for line in check_machine(card.name if card else None)),
    ]
    return "\n".join(lines).replace(str(Path.home()), "~") + "\n"
