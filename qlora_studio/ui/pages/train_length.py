"""Sequence length on the Train page: one line, and the three things it moves: rows, memory, time."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.config.architecture import LAST_ANSWER, NOT_PACKED
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.train import TrainState
from qlora_studio.ui.figures import THIN, duration, in_gib
from qlora_studio.ui.pages.data_lengths import LengthHistogram
from qlora_studio.ui.pages.train_fields import SettingField
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Card, IconLabel, PlainLabel
from qlora_studio.ui.widgets.flow import Flow
from qlora_studio.ui.widgets.text_size import at_text_size

SOURCE_AND_TARGET = (
    "This model is an encoder with a decoder: it reads a source and writes a target, each with a length "
    f"limit of its own. The bars are sources. {LAST_ANSWER} {NOT_PACKED}"
)


class LengthCard(Card):
    """The histogram of row lengths with its limit; drag it, type it, or move it by arrow keys."""

    def __init__(self, draft: RunDraft, state: TrainState) -> None:
        super().__init__(name="train_length")
        self.setAccessibleName("Sequence length")
        self._draft = draft
        self._state = state
        self.seq_len = SettingField(draft, "data.seq_len", self, on_line=True)
        self.target_len = SettingField(draft, "data.target_len", self, on_line=True)
        self.too_long = SettingField(draft, "data.too_long", self, on_line=True)
        self._problem = PlainLabel("", "note", wrap=True, name="train_data_seq_len_problem")
        self._problem.set_tone("bad")
        self._problem.hide()
        source_label = PlainLabel("Source", "muted")
        self._source = _side_by_side(source_label, self.seq_len.row)
        self._target = _side_by_side(PlainLabel("Target", "muted"), self.target_len.row)
        self._parts = PlainLabel(SOURCE_AND_TARGET, "note", wrap=True, name="train_source_and_target")
        self._of_targets = (source_label, self._target, self._parts)
        for widget in self._of_targets:
            widget.hide()
        self._histogram = LengthHistogram(draft, name="train_lengths")
        self._rows, self._rows_note = PlainLabel("…", "strong"), PlainLabel("", "note")
        self._peak, self._peak_note = PlainLabel("…", "strong"), PlainLabel("", "note")
        self._time, self._time_note = PlainLabel("…", "strong"), PlainLabel("", "note")
        self._build()

    def refresh(self) -> None:
        """After the draft or the counts changed; numbers that wait show "…" in place."""
        counts, state = self._state.counts, self._state
        if counts.counted is None:
            self._histogram.clear(counts.words or "Lengths appear once model and data are read.")
        else:
            self._histogram.show_counts(counts.counted.bins, counts.counted.bin_width)
        for widget in self._of_targets:
            widget.setVisible(state.has_source)
        self._refresh_rows()
        self._peak.setText(f"{in_gib(state.promise.total)} peak" if state.promise else "…")
        self._peak_note.setText(state.promise.words if state.promise else "")
        updates, seconds = state.updates(), state.seconds()
        how_many = "1 update" if updates == 1 else f"{updates:,} updates"
        if not updates:
            self._time.setText("…")
            self._time_note.setText("")
        elif seconds is None:
            self._time.setText(how_many)
            self._time_note.setText("hours are known once a run like this was measured")
        else:
            known = "about" if self._state.lengths is not None else "at most"
            self._time.setText(f"{known} {duration(seconds)}")
            self._time_note.setText(how_many)

    def show_problem(self, words: str) -> None:
        """Of a length limit; its field has it already."""
        self._problem.setText(words)
        self._problem.setVisible(bool(words))

    def _refresh_rows(self) -> None:
        lengths, kept = self._state.lengths, self._state.kept()
        if lengths is None:
            self._rows.setText("…")
            self._rows_note.setText("")
            return
        fate = "cut" if self._draft.value("data.too_long") == "truncate" else "dropped"
        share = kept.longer / max(len(lengths), 1)
        self._rows.setText(f"{kept.longer:,} rows {fate}")
        self._rows_note.setText(f"{share * 100:.1f}{THIN}% are longer; {kept.rows:,} are learned from")

    def _build_head(self) -> Flow:
        """On a line of their own where the title leaves no room for the fields."""
        head = Flow(gap=8, line_gap=8, last_at_right=True)
        fields = QWidget()
        wide = Flow(gap=8, line_gap=8, parent=fields)
        for item in (self._source, self._target, self.too_long.row):
            wide.addWidget(item)
        for widget in (
            PlainLabel("Sequence length", "card_title"),
            PlainLabel("drag the line", "muted"),
            fields,
        ):
            head.addWidget(widget)
        return head

    def _build(self) -> None:
        self.body.addLayout(self._build_head())
        body = QHBoxLayout()
        body.setSpacing(theme().px(16))
        at_text_size(self._histogram, self._histogram.setMinimumHeight, 130)
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
        answers.setColumnStretch(1, 1)
        beside = QWidget()
        side = QVBoxLayout(beside)
        side.setContentsMargins(0, 0, 0, 0)
        side.addLayout(answers)
        side.addStretch()
        at_text_size(beside, beside.setFixedWidth, 176)
        body.addWidget(beside)
        self.body.addLayout(body)
        self.body.addWidget(self._parts)
        self.body.addWidget(self._problem)


def _side_by_side(label: QWidget, field: QWidget) -> QWidget:
    both = QWidget()
    row = QHBoxLayout(both)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(theme().px(8))
    row.addWidget(label)
    row.addWidget(field)
    return both
