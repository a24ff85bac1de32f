"""The icon in the desktop's tray, where there is one: tells of ends while the window is out of sight."""

from __future__ import annotations

from PySide6.QtCore import QObject
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QMainWindow, QSystemTrayIcon

from qlora_studio.plain_text import visible_line
from qlora_studio.protocol.events import EngineEvent, RunFailed, RunFinished
from qlora_studio.state.app import AppState
from qlora_studio.ui.logo import window_icon

_ENDS = {"finished": "is finished", "stopped": "was stopped and saved", "paused": "is paused"}


class Tray(QObject):
    """exists: whether this desktop has a tray at all; without one the window can't be hidden."""

    def __init__(self, app: AppState, window: QMainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._preferences = app.preferences
        self.exists = QSystemTrayIcon.isSystemTrayAvailable()
        self._icon = QSystemTrayIcon(window_icon(), self) if self.exists else None
        if self._icon is not None:
            self._icon.setToolTip("QLoRA Studio")
            self._icon.activated.connect(self._show_window)
            self._icon.messageClicked.connect(self._show_window)
            self._icon.show()
        app.engine.heard.connect(self._on_heard)
        app.engine.ended.connect(self._on_engine_ended)

    def hide_window(self) -> None:
        """The run goes on; a click on the icon brings the window back."""
        QGuiApplication.setQuitOnLastWindowClosed(False)
        self._window.hide()

    def hide(self) -> None:
        if self._icon is not None:
            self._icon.hide()
        QGuiApplication.setQuitOnLastWindowClosed(True)

    def _show_window(self) -> None:
        QGuiApplication.setQuitOnLastWindowClosed(True)
        self._window.show()
        self._window.raise_()
        self._window.activateWindow()

    def _on_heard(self, event: EngineEvent) -> None:
        match event:
            case RunFinished():
                self._tell(f"The run {_ENDS.get(event.state, event.state)}, step {event.step:,}.")
                self._sound()
            case RunFailed():
                self._tell(event.error.message)
                self._sound()

    def _on_engine_ended(self, reason: str) -> None:
        self._tell(f"The engine ended ({reason}).")

    def _sound(self) -> None:
        if self._preferences.values.sound:
            QApplication.beep()

    def _tell(self, words: str) -> None:
        """Only what the person can't see: silent while the window is in front."""
        unseen = not self._window.isActiveWindow()
        if self._icon is not None and unseen and self._preferences.values.notify:
            self._icon.showMessage("QLoRA Studio", visible_line(words, 300))
