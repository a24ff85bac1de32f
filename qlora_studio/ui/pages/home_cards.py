"""Home's cards: what to do first, what to go on with, and whether the machine is well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.config.machine_check import MINIMUM_VERSIONS, Line
from qlora_studio.ui import figures
from qlora_studio.ui.run_words import state_word
from qlora_studio.ui.theme import Tone, theme
from qlora_studio.ui.widgets import (
    Card,
    Chip,
    ElidedLabel,
    IconButton,
    IconLabel,
    LinkButton,
    PlainLabel,
    PrimaryButton,
    SecondaryButton,
    Separator,
    empty_layout,
)
from qlora_studio.ui.widgets.allowed import allow

if TYPE_CHECKING:
    from qlora_studio.runs.history import RunSummary

_LINE_ICONS = {"ok": "check", "warn": "triangle-alert", "bad": "circle-alert"}


class WelcomeCard(Card):
    """Until the first run exists: five clicks from here to a chat with one's own adapter."""

    def __init__(self) -> None:
        super().__init__(name="home_welcome")
        self.setAccessibleName("Welcome")
        self.start = PrimaryButton("Start sample run", "play", name="home_start_sample")
        self.settings = SecondaryButton("See the settings first", name="home_see_settings")
        self.cancel = LinkButton("Cancel", name="home_cancel_start")
        self._title = PlainLabel("", "headline", wrap=True)
        self._words = PlainLabel("", "muted", wrap=True)
        self._waiting = PlainLabel("", "muted", name="home_waiting")
        buttons = QHBoxLayout()
        buttons.setSpacing(theme().px(8))
        for widget in (self.start, self.settings, self._waiting, self.cancel):
            buttons.addWidget(widget)
        buttons.addStretch()
        self.body.setContentsMargins(theme().px(8), theme().px(10), theme().px(8), theme().px(10))
        self.body.addWidget(self._title)
        self.body.addWidget(self._words)
        self.body.addSpacing(theme().px(6))
        self.body.addLayout(buttons)
        self.show_waiting("", can_cancel=False)

    def show_words(self, rows: int, seconds: float | None) -> None:
        """seconds: as measured on this machine; None before the first run."""
        self._title.setText(f"Train a small model on {figures.count(rows)} sample questions")
        about = f"About {figures.duration(seconds)} on this machine. " if seconds is not None else ""
        self._words.setText(
            f"{about}Nothing is downloaded. You see it learn, then chat with it beside its base model."
        )

    def show_waiting(self, words: str, *, can_cancel: bool) -> None:
        """What goes on in place of a start."""
        allow(self.start, words)
        self._waiting.setText(words)
        self._waiting.setVisible(bool(words))
        self.cancel.setVisible(can_cancel)


class ContinueCard(Card):
    """The newest run, and how to go on with it."""

    def __init__(self) -> None:
        super().__init__("Continue", name="home_continue")
        self._name = ElidedLabel("", "headline", name="home_continue_name")
        self._state = Chip(name="home_continue_state")
        self._words = PlainLabel("", "muted", wrap=True)
        self.open = PrimaryButton("Open", "arrow-right", name="home_open_run")
        self.resume = SecondaryButton("Resume", "play", name="home_resume_run")
        self.chat = SecondaryButton("Chat with it", "messages-square", name="home_chat_run")
        self._waits = PlainLabel("", "muted")
        head = QHBoxLayout()
        head.setSpacing(theme().px(10))
        head.addWidget(self._name)
        head.addWidget(self._state)
        head.addStretch(1)
        buttons = QHBoxLayout()
        buttons.setSpacing(theme().px(8))
        for widget in (self.open, self.resume, self.chat, self._waits):
            buttons.addWidget(widget)
        buttons.addStretch()
        self.body.addLayout(head)
        self.body.addWidget(self._words)
        self.body.addLayout(buttons)

    def show_run(self, row: RunSummary, *, resumable: bool, waits: str) -> None:
        """waits: why it can't be resumed now, in words; empty where nothing stands in the way."""
        run = row.run
        if run is None:
            return
        word = state_word(run.state.state, run.state.cause)
        self._name.setText(run.name)
        self._state.set(word.word, word.tone, word.icon_name)
        self._words.setText(_sentence(row))
        self.resume.setVisible(resumable)
        self.chat.setVisible(run.adapter is not None or run.model is not None)
        self._waits.setText(waits if run.state.state != "running" else "")
        self._waits.setVisible(bool(self._waits.text()))


class OwnDataCard(Card):
    """After the sample: the same with what one came for."""

    def __init__(self) -> None:
        super().__init__(
            "Now your own data", "a file of questions and answers, or chats", name="home_own_data"
        )
        self.note.setWordWrap(True)
        self.import_file = SecondaryButton("Import a file", "file-plus", name="home_own_import")
        self.choose_model = SecondaryButton("Choose a model", "box", name="home_own_model")
        row = QHBoxLayout()
        row.setSpacing(theme().px(8))
        row.addWidget(self.import_file)
        row.addWidget(self.choose_model)
        row.addStretch()
        self.body.addLayout(row)


class DoctorCard(Card):
    """Is this machine well? What isn't has the command that mends it."""

    def __init__(self) -> None:
        super().__init__("This machine", name="home_doctor")
        self._chip = Chip("looking", Tone.NEUTRAL, "hourglass")
        self.add_to_head(self._chip)
        self._lines = QVBoxLayout()
        self._lines.setSpacing(theme().px(8))
        self.body.addLayout(self._lines)
        self._shown: Sequence[Line] | None = None

    def show_checks(self, checks: Sequence[Line] | None) -> None:
        """None: not looked at yet."""
        if checks is None or checks == self._shown:
            return
        self._shown = checks
        empty_layout(self._lines)
        bad = sum(line.tone != "ok" for line in checks)
        worst = Tone.BAD if any(line.tone == "bad" for line in checks) else Tone.WARN
        self._chip.set(f"{bad} to look at" if bad else "well", worst if bad else Tone.OK)
        for at, line in enumerate(_folded(checks)):
            if at:
                self._lines.addWidget(Separator())
            self._lines.addWidget(_DoctorLine(line, f"home_doctor_{at}"))


class _DoctorLine(QWidget):
    def __init__(self, line: Line, name: str) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(5))
        head = QHBoxLayout()
        head.setSpacing(theme().px(9))
        head.addWidget(IconLabel(_LINE_ICONS[line.tone], line.tone), 0, Qt.AlignmentFlag.AlignTop)
        words = QVBoxLayout()
        words.setSpacing(theme().px(1))
        words.addWidget(PlainLabel(line.name[:1].upper() + line.name[1:], "label"))
        words.addWidget(PlainLabel(line.words, "note", wrap=True))
        head.addLayout(words, 1)
        layout.addLayout(head)
        self.setAccessibleName(f"{line.name}: {line.words}")
        if line.mend:
            layout.addLayout(self._mend(line, name))

    def _mend(self, line: Line, name: str) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(theme().px(4))
        command = ElidedLabel(line.mend, "command", name=name)
        copy = IconButton("copy", f"Copy the command for {line.name}", name=f"{name}_copy", small=True)
        copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(line.mend))
        row.addWidget(command, 1)
        row.addWidget(copy)
        return row


def _folded(checks: Sequence[Line]) -> list[Line]:
    """The libraries that are well, as one line; all others as they are."""
    well = [line for line in checks if line.name in MINIMUM_VERSIONS and line.tone == "ok"]
    rest = [line for line in checks if line not in well]
    if not well:
        return rest
    versions = Line(
        name="libraries", tone="ok", words=f"{len(well)} of {len(MINIMUM_VERSIONS)} are recent enough"
    )
    return [*rest, versions]


def _sentence(row: RunSummary) -> str:
    """What there is to know in a line: step, loss, age, and why it failed."""
    assert row.run is not None
    state = row.run.state
    parts = []
    if state.total_steps:
        parts.append(f"step {state.step:,} of {state.total_steps:,}")
    if state.evaluation_loss is not None:
        parts.append(f"evaluation loss {figures.loss(state.evaluation_loss)}")
    elif state.loss is not None:
        parts.append(f"loss {figures.loss(state.loss)}")
    if state.updated:
        parts.append(figures.ago(state.updated))
    line = " · ".join(parts)
    return f"{line}\n{row.reason}" if row.reason else line
