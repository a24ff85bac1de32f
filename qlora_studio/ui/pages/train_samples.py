"""The prompts that are answered at each checkpoint: taken from the data, or one's own."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject
from PySide6.QtWidgets import QHBoxLayout, QPlainTextEdit, QVBoxLayout, QWidget

from qlora_studio.state.train import TrainState
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import LinkButton, NumberBox, PlainLabel
from qlora_studio.ui.widgets.text_size import at_text_size

FIELDS = 3
LONGEST_REPLY = 64  # tokens, where nobody said otherwise


class SamplesEditor(QWidget):
    """One field a prompt. What is typed counts once the field is left."""

    def __init__(self, state: TrainState) -> None:
        super().__init__()
        self.setObjectName("train_samples")
        self._state = state
        self._texts = [_field(number) for number in range(FIELDS)]
        self._longest = NumberBox(
            1, 4096, LONGEST_REPLY, name="train_samples_max_tokens", label="Longest reply", unit="tokens"
        )
        self._back = LinkButton(
            "Take them from the data", "rotate-ccw", small=True, name="train_samples_from_data"
        )
        self._note = PlainLabel("", "note", wrap=True, name="train_samples_note")
        self._build()
        for text in self._texts:
            text.installEventFilter(self)
        self._longest.valueChanged.connect(self._keep)
        self._back.clicked.connect(self._on_back)

    def refresh(self) -> None:
        """After the draft or the data is another one; a field that is being typed in stays."""
        prompts = self._state.prompts()
        for place, text in enumerate(self._texts):
            shown = prompts[place].prompt if place < len(prompts) else ""
            if not text.hasFocus() and text.toPlainText() != shown:
                text.setPlainText(shown)
        if prompts:
            self._longest.blockSignals(True)
            self._longest.setValue(prompts[0].max_tokens)
            self._longest.blockSignals(False)
        self._back.setVisible(self._state.prompts_are_own)
        self._note.setText(self._note_words())

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() is QEvent.Type.FocusOut:
            self._keep()
        return False

    def _build(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(8))
        for text in self._texts:
            layout.addWidget(text)
        foot = QHBoxLayout()
        foot.setSpacing(theme().px(8))
        label = PlainLabel("Longest reply", "label")
        label.setBuddy(self._longest)
        foot.addWidget(label)
        foot.addWidget(self._longest)
        foot.addWidget(self._note, 1)
        foot.addWidget(self._back)
        layout.addLayout(foot)

    def _keep(self) -> None:
        typed = [text.toPlainText().strip() for text in self._texts]
        shown = self._state.prompts()
        longest = shown[0].max_tokens if shown else LONGEST_REPLY
        was = [sample.prompt.strip() for sample in shown[:FIELDS]]
        if [text for text in typed if text] != was or self._longest.value() != longest:
            rest = [sample.prompt for sample in shown[FIELDS:]]  # that a settings file brought
            self._state.set_prompts([*typed, *rest], self._longest.value())

    def _on_back(self) -> None:
        self._state.set_prompts([], LONGEST_REPLY)

    def _note_words(self) -> str:
        state = self._state
        if state.prompts_are_own:
            more = len(state.prompts()) - FIELDS
            return f"and {more} more from the settings file" if more > 0 else ""
        if state.samples is None:
            return "Known once model and data are read."
        return (
            "From the rows held out; change one, and all are yours."
            if state.samples
            else "The data has none."
        )


def _field(number: int) -> QPlainTextEdit:
    text = QPlainTextEdit()
    text.setObjectName(f"train_samples_{number}")
    text.setAccessibleName(f"Sample prompt {number + 1}")
    text.setPlaceholderText("No prompt")
    text.setTabChangesFocus(True)
    at_text_size(text, text.setFixedHeight, 56)
    return text
