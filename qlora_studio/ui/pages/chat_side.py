"""Beside a chat: the system prompt, and whether the template is the one that was trained with."""

from __future__ import annotations

from PySide6.QtWidgets import QPlainTextEdit

from qlora_studio.state.chat import ChatState
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, Chip, LinkButton, PlainLabel


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
        self._text.setFixedHeight(theme().px(64))
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
        for widget in (self._words, self._show, self._rendered):
            self.body.addWidget(widget)

    def refresh(self) -> None:
        """After a message was rendered."""
        state = self._state
        if not state.template_sha256:
            self._chip.set("not used yet", "neutral", "")
            self._words.setText("Known once a message was sent.")
        elif state.template_differs:
            self._chip.set("differs", "warn", "triangle-alert")
            self._words.setText("Chat uses another template than training did; replies would suffer.")
        elif state.tuned is not None:
            self._chip.set("same as in training", "ok", "lock")
            self._words.setText(f"Hash {state.template_sha256[:4]} {state.template_sha256[4:8]}")
        else:
            self._chip.set("the model's own", "ok", "check")
            self._words.setText(f"Hash {state.template_sha256[:4]} {state.template_sha256[4:8]}")
        self._show.setVisible(bool(state.rendered))
        self._rendered.setText(state.rendered)
        self._rendered.setVisible(bool(state.rendered) and self._show.isChecked())
