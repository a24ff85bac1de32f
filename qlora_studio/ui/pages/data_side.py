"""Beside the rows: how long they are, and what is odd about them."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.data.report import Finding
from qlora_studio.state.data import NOTHING, DataState
from qlora_studio.state.draft import RunDraft
from qlora_studio.ui.pages.data_equation import percent
from qlora_studio.ui.pages.data_lengths import LengthHistogram
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    Chip,
    ChoiceBox,
    ElidedLabel,
    IconLabel,
    LinkButton,
    NumberBox,
    PlainLabel,
    Separator,
    empty_layout,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.text_size import at_text_size

SEQ_LEN, TOO_LONG = "data.seq_len", "data.too_long"
FATE_WORDS = {"drop": "dropped", "truncate": "cut", "stop": "too long: training would not start"}
SPLIT = "Longer texts are split, nothing is lost"
TONE_ICONS = {"bad": "circle-alert", "warn": "triangle-alert", "info": "info", "ok": "check"}
TONE_COLORS = {"bad": "bad", "warn": "warn", "info": "accent", "ok": "ok"}


class LengthsCard(Card):
    """The same limit as on the Train page: dragged, typed, or moved by arrow keys.

    model_asked: the person wants to choose another model
    """

    model_asked = Signal()

    def __init__(self, draft: RunDraft, state: DataState) -> None:
        super().__init__("Length in tokens", name="data_lengths_card")
        self._draft = draft
        self._state = state
        self.histogram = LengthHistogram(draft, name="data_lengths")
        setting = draft.fields[SEQ_LEN].setting
        self._seq_len = NumberBox(
            int(setting.minimum or 1), int(setting.maximum or 2**31 - 1), draft.value(SEQ_LEN),
            name="data_seq_len", label=setting.label,
        )  # fmt: skip
        longer = draft.fields[TOO_LONG].setting
        self._too_long = ChoiceBox(list(longer.choices.items()), name="data_too_long", label=longer.label)
        self._seq_len.setAccessibleDescription(setting.help)
        self._too_long.setAccessibleDescription(longer.help)
        self._cost = PlainLabel("", "label", wrap=True, name="data_cost")
        self._half = PlainLabel("", "muted")
        self._model = ElidedLabel("", "note", name="data_template")
        self._change = LinkButton("Change", name="data_change_model")
        self._build()
        self._bind()

    def refresh(self) -> None:
        """After another count, limit or model."""
        state, counted = self._state, self._state.counts.counted
        self._seq_len.blockSignals(True)
        self._seq_len.setValue(self._draft.value(SEQ_LEN))
        self._seq_len.blockSignals(False)
        self._too_long.set_value(self._draft.value(TOO_LONG))
        allow(self._too_long, SPLIT if state.texts_are_split else "")
        named = state.model_name
        self._model.setText(f"Tokens and template of {named}" if named else "No model is chosen")
        if counted is None:
            self.histogram.clear(_why_none(state))
            self._cost.set_tone("")
            self._cost.setText(SPLIT if state.texts_are_split else "")
            self._half.setText("")
            return
        self.histogram.show_counts(counted.bins, counted.bin_width)
        self._half.setText(f"half are under {counted.lengths.median:,}")
        self._show_cost(counted.lengths.rows)

    def _show_cost(self, rows: int) -> None:
        long, fate = len(self._state.table.long_rows()), FATE_WORDS[self._draft.value(TOO_LONG)]
        if self._state.texts_are_split:
            self._cost.set_tone("")
            self._cost.setText(SPLIT)
        elif long:
            self._cost.set_tone("bad")
            self._cost.setText(f"{long:,} rows ({percent(long / max(rows, 1))}) are {fate}")
        else:
            self._cost.set_tone("")
            self._cost.setText("No row is longer")

    def _build(self) -> None:
        self.add_to_head(self._too_long)
        at_text_size(self.histogram, self.histogram.setMinimumHeight, 150)
        limit = QHBoxLayout()
        limit.setSpacing(theme().px(8))
        limit.addWidget(self._seq_len)
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addWidget(self._cost)
        words.addWidget(self._half)
        limit.addLayout(words, 1)
        model = QHBoxLayout()
        model.addWidget(self._model, 1)
        model.addWidget(self._change)
        self.body.addWidget(self.histogram)
        self.body.addLayout(limit)
        self.body.addLayout(model)

    def _bind(self) -> None:
        self._seq_len.valueChanged.connect(lambda tokens: self._draft.set(SEQ_LEN, tokens))
        self._too_long.chosen.connect(lambda value: self._draft.set(TOO_LONG, value))
        self._change.clicked.connect(self.model_asked)


class FindingsCard(Card):
    """Each finding with its count in words, why it matters, and the way to its rows.

    asked: the kind of the finding whose rows are to be listed
    """

    asked = Signal(str)

    def __init__(self) -> None:
        super().__init__("Data doctor", name="data_findings")
        self._to_decide = Chip("", "warn", name="data_to_decide")
        self._list = QVBoxLayout()
        self._list.setSpacing(theme().px(6))
        self._shown: tuple[list[Finding], int] | None = None
        self.add_to_head(self._to_decide)
        self.body.addLayout(self._list)
        self.body.addStretch()
        self.body.addWidget(PlainLabel("Your file is never changed.", "note"))

    def show_findings(self, findings: list[Finding], rows: int) -> None:
        """rows: how many were looked at."""
        if (findings, rows) == self._shown:
            return
        self._shown = findings, rows
        grave = sum(finding.tone in ("bad", "warn") for finding in findings)
        self._to_decide.set(f"{grave:,} to look at", "warn")
        self._to_decide.setVisible(bool(grave))
        empty_layout(self._list)
        if not findings:
            fine = Finding(
                kind="fine",
                tone="ok",
                count=rows,
                words="Nothing odd was found",
                why=f"{rows:,} rows were looked at",
            )
            self._list.addWidget(FindingRow(fine))
        for number, finding in enumerate(findings):
            if number:
                self._list.addWidget(Separator())
            row = FindingRow(finding)
            row.show_rows.clicked.connect(lambda _, kind=finding.kind: self.asked.emit(kind))
            self._list.addWidget(row)


class FindingRow(QWidget):
    """Icon, count in words, why, [Show]."""

    def __init__(self, finding: Finding) -> None:
        super().__init__()
        self.show_rows = LinkButton("Show", name=f"data_show_{finding.kind}")
        self.show_rows.setAccessibleName(f"Show: {finding.words}")
        words = QVBoxLayout()
        words.setSpacing(theme().px(1))
        words.addWidget(PlainLabel(finding.words, "label", wrap=True))
        words.addWidget(PlainLabel(finding.why, "note", wrap=True))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, theme().px(2), 0, theme().px(2))
        layout.setSpacing(theme().px(10))
        icon = IconLabel(TONE_ICONS[finding.tone], TONE_COLORS[finding.tone], label=finding.tone)
        layout.addWidget(icon, 0, Qt.AlignmentFlag.AlignTop)
        layout.addLayout(words, 1)
        layout.addWidget(self.show_rows, 0, Qt.AlignmentFlag.AlignVCenter)
        self.show_rows.setVisible(bool(finding.rows) or finding.kind in (NOTHING, "skipped"))


def _why_none(state: DataState) -> str:
    """Why there are no bars."""
    if state.counts.problem is not None:
        return state.counts.problem.message
    if state.counts.words:
        return state.counts.words
    if state.unpacking:
        return "Unpacking the sample model, once"
    return "The sample model is not unpacked yet" if state.sample_waits else "Pick a model to see lengths"
