"""The card of the local endpoint: started by a click, and only while the page is shown."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QHBoxLayout

from qlora_studio.state.endpoint import EndpointState
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, Chip, ElidedLabel, IconButton, PlainLabel, SecondaryButton

ABOUT = (
    "Programs on this machine can ask these models in OpenAI's format. "
    "It listens from your click until you leave this page."
)
_SHOWN_OF_TOKEN = 4  # letters


class EndpointCard(Card):
    """copied: what is in the clipboard now, in words."""

    copied = Signal(str)

    def __init__(self, state: EndpointState) -> None:
        super().__init__("Local endpoint", name="chat_endpoint")
        self._state = state
        self._chip = Chip("", "neutral", name="chat_endpoint_state")
        self.add_to_head(self._chip)
        self._about = PlainLabel(ABOUT, "muted", wrap=True)
        self._url = ElidedLabel("", "command", name="chat_endpoint_url")
        self._token = ElidedLabel("", "command", name="chat_endpoint_token")
        self._copy_url = IconButton("copy", "Copy the base URL", name="chat_endpoint_copy_url", small=True)
        self._copy_token = IconButton(
            "key-round", "Copy the token", name="chat_endpoint_copy_token", small=True
        )
        self._models = PlainLabel("", "note", wrap=True, name="chat_endpoint_models")
        self._copy_command = SecondaryButton(
            "Copy a request", "terminal", small=True, name="chat_endpoint_copy_command"
        )
        self._start = SecondaryButton("Start", "play", small=True, name="chat_endpoint_start")
        self._stop = SecondaryButton("Stop", "square", small=True, name="chat_endpoint_stop")
        self.body.addWidget(self._about)
        for label, button in ((self._url, self._copy_url), (self._token, self._copy_token)):
            row = QHBoxLayout()
            row.setSpacing(theme().px(4))
            row.addWidget(label, 1)
            row.addWidget(button)
            self.body.addLayout(row)
        self.body.addWidget(self._models)
        buttons = QHBoxLayout()
        buttons.setSpacing(theme().px(8))
        for below in (self._start, self._stop, self._copy_command):
            buttons.addWidget(below)
        buttons.addStretch()
        self.body.addLayout(buttons)
        self._bind()

    def _bind(self) -> None:
        state = self._state
        state.changed.connect(self.refresh)
        self._start.clicked.connect(state.start)
        self._stop.clicked.connect(state.stop)
        self._copy_url.clicked.connect(lambda: self._copy(state.url, "Base URL copied"))
        self._copy_token.clicked.connect(lambda: self._copy(state.token, "Token copied"))
        self._copy_command.clicked.connect(lambda: self._copy(state.command, "Request copied"))
        self.refresh()

    def refresh(self) -> None:
        """After the state changed."""
        state = self._state
        for widget in (self._url, self._copy_url, self._token, self._copy_token, self._stop):
            widget.setVisible(state.running)
        self._copy_command.setVisible(state.running)
        self._start.setVisible(not state.running)
        if not state.running:
            self._chip.set("off", "neutral", "")
            self._models.setText(f"{state.problem.message} {state.problem.hint}" if state.problem else "")
            self._models.setVisible(state.problem is not None)
            return
        waiting = f", {state.waiting} in hand" if state.waiting else ""
        self._chip.set("listening", "ok", "circle-check")
        self._url.setText(state.url)
        self._token.setText(f"token {state.token[:_SHOWN_OF_TOKEN]}…")
        self._models.setText(f"Models: {', '.join(state.models)}. Answered: {state.answered:,}{waiting}.")
        self._models.setVisible(True)

    def _copy(self, text: str, words: str) -> None:
        QGuiApplication.clipboard().setText(text)
        self.copied.emit(words)
