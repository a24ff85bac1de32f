"""Sequence length on the Train page: one line, and the three things it moves: rows, memory, time."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout

from qlora_studio.state.draft import RunDraft
from qlora_studio.state.train import TrainState
from qlora_studio.ui.figures import duration
from qlora_studio.ui.pages.data_lengths import LengthHistogram
from qlora_studio.ui.pages.train_fields import SettingField
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, IconLabel, PlainLabel


class LengthCard(Card):
    """The histogram of row lengths with its limit; drag it, type it, or move it by arrow keys."""

    def __init__(self, draft: RunDraft, state: TrainState) -> None:
        super().__init__(
            "Sequence length", "drag the line: all three answers move with it", name="train_length"
        )
        self._draft = draft
        self._state = state
        self._seq_len = SettingField(draft, "data.seq_len", self)
        self._too_long = SettingField(draft, "data.too_long", self)
        self._histogram = LengthHistogram(draft, name="train_lengths")
        self._rows, self._rows_note = PlainLabel("…", "strong"), PlainLabel("", "note")
        self._peak, self._peak_note = PlainLabel("…", "strong"), PlainLabel("", "note")
        self._time, self._time_note = PlainLabel("…", "strong"), PlainLabel("", "note")
        self._build()

    def refresh(self) -> None:
        """After the draft or the counts changed."""
        state = self._state
        if state.counted is None:
            self._histogram.clear(state.counting_words or "Lengths appear once model and data are read.")
        else:
            self._histogram.show_counts(state.counted.bins, state.counted.bin_width)
        rows, longer, _ = state.kept_rows()
        fate = "cut" if self._draft.value("data.too_long") == "truncate" else "dropped"
        if state.lengths is not None:
            self._rows.setText(f"{longer:,} rows {fate}")
            self._rows_note.setText(
                f"{longer / max(len(state.lengths), 1):.1%} are longer; {rows:,} are learned from"
            )
        if state.promise is not None:
            self._peak.setText(f"{state.promise.total / 2**30:.1f} GiB peak")
            self._peak_note.setText(state.promise.words)
        updates, seconds = state.updates(), state.seconds()
        if updates:
            self._time.setText(f"about {duration(seconds)}" if seconds else f"{updates:,} updates")
            self._time_note.setText(
                f"{updates:,} updates" if seconds else "hours are known once a run like this was measured"
            )

    def _build(self) -> None:
        for item in (self._seq_len, self._too_long):
            self.add_to_head(item.widget)
        body = QHBoxLayout()
        body.setSpacing(theme().px(16))
        self._histogram.setMinimumHeight(theme().px(130))
        body.addWidget(self._histogram, 1)
        answers = QGridLayout()
        answers.setHorizontalSpacing(theme().px(8))
        answers.setVerticalSpacing(theme().px(8))
        for row, (icon, number, note) in enumerate(
            (
                ("scissors", self._rows, self._rows_note),
                ("gauge", self._peak, self._peak_note),
                ("clock", self._time, self._time_note),
            )
        ):
            words = QVBoxLayout()
            words.setSpacing(0)
            words.addWidget(number)
            words.addWidget(note)
            note.setWordWrap(True)
            answers.addWidget(IconLabel(icon), row, 0, Qt.AlignmentFlag.AlignTop)
            answers.addLayout(words, row, 1)
        side = QVBoxLayout()
        side.addLayout(answers)
        side.addStretch()
        body.addLayout(side)
        self.body.addLayout(body)
