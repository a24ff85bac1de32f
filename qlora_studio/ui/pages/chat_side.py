"""Beside a chat: the system prompt, and whether the template is the one that was trained with."""

from __future__ import annotations

from PySide6.QtCore import QTimer
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QPlainTextEdit

from qlora_studio.state.app import AppState
from qlora_studio.state.chat import ChatState
from qlora_studio.ui.figures import in_gib
from qlora_studio.ui.widgets import Card, Chip, LinkButton, PlainLabel, SecondaryButton
from qlora_studio.ui.widgets.text_size import at_text_size

READ_EVERY_MS = 2_000


class SystemCard(Card):
    """What the model is told before the chat."""

    def __init__(self, state: ChatState) -> None:
        super().__init__("System prompt", name="chat_system_card")
        self._state = state
        self._text = QPlainTextEdit()
        self._text.setObjectName("chat_system")
        self._text.setAccessibleName("System prompt")
        self._text.setPlaceholderText("None: the template's own, if it has one")
        self._text.setTabChangesFocus(True)
        at_text_size(self._text, self._text.setFixedHeight, 48)
        self._text.textChanged.connect(self._on_changed)
        self.body.addWidget(self._text)

    def refresh(self) -> None:
        """After the state changed by itself."""
        if self._text.toPlainText() != self._state.system:
            self._text.setPlainText(self._state.system)

    def _on_changed(self) -> None:
        self._state.system = self._text.toPlainText()


class TemplateCard(Card):
    """Same as in training, or not; and the exact text that the model was given."""

    def __init__(self, state: ChatState) -> None:
        super().__init__("Template", name="chat_template")
        self._state = state
        self._chip = Chip("", "neutral", name="chat_template_state")
        self.add_to_head(self._chip)
        self._words = PlainLabel("", "muted", wrap=True)
        self._show = LinkButton("Show rendered text", "eye", small=True, name="chat_show_rendered")
        self._show.setCheckable(True)
        self._show.toggled.connect(self.refresh)
        self._rendered = PlainLabel("", "mono", wrap=True, name="chat_rendered")
        self._show_difference = LinkButton(
            "Show difference", "git-compare", small=True, name="chat_show_difference"
        )
        self._show_difference.setCheckable(True)
        self._show_difference.toggled.connect(self.refresh)
        self._difference = PlainLabel("", "mono", wrap=True, name="chat_template_difference")
        self._use = SecondaryButton("", small=True, name="chat_use_trained")
        self._use.clicked.connect(lambda: state.set_use_trained(not state.use_trained))
        for widget in (self._words, self._use, self._show_difference, self._difference):
            self.body.addWidget(widget)
        for widget in (self._show, self._rendered):
            self.body.addWidget(widget)

    def refresh(self) -> None:
        """After a message was rendered."""
        state = self._state
        if not state.template_sha256:
            self._chip.set("not used yet", "neutral", "")
            self._words.setText("Known once a message was sent.")
        elif state.template_differs:
            self._chip.set("differs", "warn", "triangle-alert")
            again = "From the next message on the trained one is used." if state.use_trained else ""
            words = "Chat uses another template than training did; replies would suffer."
            self._words.setText(f"{words} {again}".rstrip())
        elif state.tuned is not None and state.template_difference:
            self._chip.set("the trained one", "ok", "lock")
            self._words.setText("The model's own template is another one by now; it is not used here.")
        elif state.tuned is not None:
            self._chip.set("same as in training", "ok", "lock")
            self._words.setText(f"Hash {state.template_sha256[:4]} {state.template_sha256[4:8]}")
        else:
            self._chip.set("the model's own", "ok", "check")
            self._words.setText(f"Hash {state.template_sha256[:4]} {state.template_sha256[4:8]}")
        differs = bool(state.template_difference)
        self._use.setText("Use the model's own" if state.use_trained else "Use the trained one")
        self._use.setVisible(differs and state.trained_known)
        self._show_difference.setVisible(differs)
        self._difference.setText(state.template_difference)
        self._difference.setVisible(differs and self._show_difference.isChecked())
        self._show.setVisible(bool(state.rendered))
        self._rendered.setText(state.rendered)
        self._rendered.setVisible(bool(state.rendered) and self._show.isChecked())


class MemoryCard(Card):
    """What the model takes on the device now, read while somebody looks."""

    def __init__(self, app: AppState) -> None:
        super().__init__("Memory", name="chat_memory")
        self._app = app
        self._number = PlainLabel("", "strong", name="chat_memory_used")
        self.add_to_head(self._number)
        self._words = PlainLabel("", "muted", wrap=True)
        self.body.addWidget(self._words)
        self._timer = QTimer(self, interval=READ_EVERY_MS)
        self._timer.timeout.connect(self.refresh)
        self.refresh()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._timer.start()
        self.refresh()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._timer.stop()

    def refresh(self) -> None:
        """Of the card where there is one, else of the engine's process."""
        card = self._app.machine.card
        used = card.used_bytes if card is not None else self._app.engine.process_bytes()
        self._number.setText(in_gib(used) if used is not None else "")
        if used is None:
            self._words.setText("No engine is running: nothing is loaded.")
            return
        where = "On the card, with other programs." if card is not None else "RAM of the engine."
        self._words.setText(
            f"{where} Both sides share one model; the adapter is switched on for the right side."
        )
