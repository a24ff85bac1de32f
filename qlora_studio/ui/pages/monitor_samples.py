"""Living samples: the same prompts at each checkpoint, and what became other between two of them."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QColor, QTextBlockFormat, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QTextEdit

from qlora_studio.plain_text import visible_line, visible_text
from qlora_studio.runs.samples import Sample
from qlora_studio.state.word_diff import word_diff
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, ChoiceBox, LinkButton, PlainLabel
from qlora_studio.ui.widgets.text_size import at_text_size

_LONGEST_REPLY = 1_500  # characters of one reply that are shown
_MOST_PROMPTS = 6


class SamplesCard(Card):
    """Underlined is new, struck out is gone; two checkpoints are chosen, the newest two at first.

    all_asked: every checkpoint beside the others
    """

    all_asked = Signal()

    def __init__(self) -> None:
        super().__init__("Living samples", name="monitor_samples_card")
        self._samples: tuple[Sample, ...] = ()
        self._follows = True  # the newest two, until the person chooses
        self._from = ChoiceBox([], name="monitor_sample_from", label="From checkpoint")
        self._to = ChoiceBox([], name="monitor_sample_to", label="To checkpoint")
        self._between = PlainLabel("to", "muted")
        for widget in (self._from, self._between, self._to):
            self.add_to_head(widget)
        self._text = SampleText()
        self._empty = PlainLabel("", "muted", wrap=True)
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.body.addWidget(self._empty)
        self.body.addWidget(self._text, 1)
        legend = QHBoxLayout()
        legend.setSpacing(theme().px(12))
        self._new, self._gone = PlainLabel("underlined: new", "note"), PlainLabel("struck out: gone", "note")
        self._new.set_tone("ok")
        self._gone.set_tone("bad")
        legend.addWidget(self._new)
        legend.addWidget(self._gone)
        legend.addStretch()
        self._all = LinkButton("", name="monitor_all_samples")
        self._all.clicked.connect(self.all_asked)
        legend.addWidget(self._all)
        self.body.addLayout(legend)
        for box in (self._from, self._to):
            box.chosen.connect(self._on_chosen)
        theme().changed.connect(self._show)
        self.show_samples((), awaited=True)

    def show_samples(self, samples: Sequence[Sample], awaited: bool, is_open: bool = True) -> None:
        """awaited: answers may come yet. is_open: there is a run."""
        if samples and tuple(samples) == self._samples:
            return
        self._samples = tuple(samples)
        steps = sorted({sample.step for sample in samples})
        choices = [(str(step), f"step {step:,}") for step in steps]
        for box in (self._from, self._to):
            box.set_choices(choices)
        if steps and (self._follows or not self._from.value()):
            self._from.set_value(str(steps[max(len(steps) - 2, 0)]))
            self._to.set_value(str(steps[-1]))
        waiting = "The first answers come with the first checkpoint."
        if not is_open:
            waiting = "Answers to the sample prompts stand here, of each checkpoint."
        self._empty.setText(waiting if awaited else "No sample prompt was answered in this run.")
        self._show()

    def _on_chosen(self) -> None:
        self._follows = False
        self._show()

    def _show(self) -> None:
        several = self._from.count() > 1
        for widget in (self._from, self._between, self._new, self._gone, self._all):
            widget.setVisible(several)
        self._all.setText(f"All {self._from.count():,} checkpoints")
        self._to.setVisible(bool(self._samples))
        self._text.setVisible(bool(self._samples))
        self._empty.setVisible(not self._samples)
        if self._samples:
            before = self._replies_at(self._from.value()) if self._from.value() != self._to.value() else {}
            self._text.show_replies(before, self._replies_at(self._to.value()))

    def _replies_at(self, step: str) -> dict[str, str]:
        return {sample.prompt: sample.reply for sample in self._samples if str(sample.step) == step}


class SampleText(QTextEdit):
    """Prompts with their replies. Text from outside is put in as characters, never as markup (S8)."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("monitor_samples")
        self.setAccessibleName("Answers to the sample prompts")
        self.setReadOnly(True)
        self.setUndoRedoEnabled(False)
        self.setFrameShape(QTextEdit.Shape.NoFrame)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        at_text_size(self, self.setMinimumHeight, 120)
        self.document().setDocumentMargin(0)

    def show_replies(self, before: dict[str, str], after: dict[str, str]) -> None:
        """By prompt."""
        place = self.verticalScrollBar().value()
        self.clear()
        cursor = QTextCursor(self.document())
        for number, (prompt, reply) in enumerate(list(after.items())[:_MOST_PROMPTS]):
            self._write_prompt(cursor, prompt, first=not number, unchanged=before.get(prompt) == reply)
            self._write_reply(cursor, before.get(prompt), reply)
        self.verticalScrollBar().setValue(place)

    def _write_prompt(self, cursor: QTextCursor, prompt: str, first: bool, unchanged: bool) -> None:
        if not first:
            cursor.insertBlock()
        cursor.setBlockFormat(_block(above=0 if first else 10, below=4))
        cursor.setCharFormat(_ink("muted"))
        cursor.insertText(visible_line(prompt, 300))
        if unchanged:
            cursor.insertText("   unchanged", _ink("muted", italic=True))
        cursor.insertBlock()
        cursor.setBlockFormat(_block(above=0, below=4))

    def _write_reply(self, cursor: QTextCursor, before: str | None, after: str) -> None:
        if before is None or before == after:
            cursor.insertText(visible_text(after, _LONGEST_REPLY), _ink("text"))
            return
        formats = {"same": _ink("text"), "gone": _gone(), "new": _new()}
        for piece in word_diff(before[:_LONGEST_REPLY], after[:_LONGEST_REPLY]):
            cursor.insertText(visible_text(piece.text), formats[piece.fate])


def _block(above: int, below: int) -> QTextBlockFormat:
    block = QTextBlockFormat()
    block.setTopMargin(theme().px(above))
    block.setBottomMargin(theme().px(below))
    block.setLineHeight(140, int(QTextBlockFormat.LineHeightTypes.ProportionalHeight.value))
    return block


def _ink(color: str, italic: bool = False) -> QTextCharFormat:
    ink = QTextCharFormat()
    ink.setFont(theme().font("label"))
    ink.setForeground(QColor(theme().color(color)))
    ink.setFontItalic(italic)
    return ink


def _new() -> QTextCharFormat:
    ink = _ink("ok")
    ink.setFontUnderline(True)
    ink.setBackground(theme().color("ok_soft"))
    return ink


def _gone() -> QTextCharFormat:
    ink = _ink("bad")
    ink.setFontStrikeOut(True)
    ink.setBackground(theme().color("bad_soft"))
    return ink
