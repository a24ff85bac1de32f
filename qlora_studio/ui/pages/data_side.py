"""Beside the rows: how long they are."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout

from qlora_studio.state.data import DataState
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.train_cost import limit_cost
from qlora_studio.ui.pages.data_equation import percent
from qlora_studio.ui.pages.data_lengths import LengthHistogram
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    ChoiceBox,
    ElidedLabel,
    LinkButton,
    PlainLabel,
    TypedNumber,
    set_property,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.text_size import at_text_size

SEQ_LEN, TOO_LONG = "data.seq_len", "data.too_long"
FATE_WORDS = {"drop": "dropped", "truncate": "cut", "stop": "too long: training would not start"}
SPLIT = "Longer texts are split, nothing is lost"
SOME_SPLIT = "Only texts may be longer: they are split"  # of a mixture


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
        self._seq_len = TypedNumber(
            int(setting.minimum or 1), int(setting.maximum or 2**31 - 1), draft.value(SEQ_LEN),
            name="data_seq_len", label=setting.label,
        )  # fmt: skip
        longer = draft.fields[TOO_LONG].setting
        self._too_long = ChoiceBox(list(longer.choices.items()), name="data_too_long", label=longer.label)
        self._seq_len.setAccessibleDescription(setting.help)
        self._too_long.setAccessibleDescription(longer.help)
        self._cost = PlainLabel("", "label", wrap=True, name="data_cost")
        self._refusal = PlainLabel("", "note", wrap=True, name="data_seq_len_problem")
        self._refusal.set_tone("bad")
        self._refusal.hide()
        self._half = PlainLabel("", "note", wrap=True, name="data_half")
        self._lost = PlainLabel("", "note", wrap=True, name="data_lost")
        self._target = PlainLabel("", "note", wrap=True, name="data_target_len")
        self._target.hide()
        self._updates = PlainLabel("", "note", wrap=True, name="data_updates")
        self._model = ElidedLabel("", "note", name="data_template")
        self._change = LinkButton("Change", name="data_change_model")
        self._build()
        self._bind()

    def refresh(self) -> None:
        """After another count, limit or model."""
        state, counted = self._state, self._state.counts.counted
        self._show_limit()
        self._too_long.set_value(self._draft.value(TOO_LONG))
        allow(self._too_long, SPLIT if state.texts_are_split else "")
        named = state.model_name
        self._model.setText(f"Tokens and template of {named}" if named else "No model is chosen")
        self.title.setText("Sources in tokens" if state.has_source else "Length in tokens")
        most = self._draft.value("data.target_len")
        self._target.setText(f"Targets may have {most:,} tokens, as set on the Train page")
        self._target.setVisible(state.has_source)
        if counted is None:
            self.histogram.clear(_why_none(state))
            self._cost.set_tone("")
            self._cost.setText(SPLIT if state.texts_are_split else "")
            for label in (self._half, self._lost, self._updates):
                label.setText("")
            return
        self.histogram.show_counts(counted.bins, counted.bin_width)
        parts = ", both parts" if counted.has_source else ""
        self._half.setText(f"Half are under {counted.lengths.median:,}{parts}")
        self._show_cost()

    def _show_limit(self) -> None:
        """What the draft refused stays as it was typed, with the reason."""
        refusal = self._draft.refusals.get(SEQ_LEN, "")
        if not refusal:
            self._seq_len.setValue(self._draft.value(SEQ_LEN))
        set_property(self._seq_len, "problem", bool(refusal))
        self._refusal.setText(refusal)
        self._refusal.setVisible(bool(refusal))

    def _show_cost(self) -> None:
        """Of the limit as the line stands, also while it is dragged."""
        lengths = self._state.counts.lengths
        if lengths is None:
            return
        rows = max(len(lengths), 1)
        cost = limit_cost(lengths, self._draft.config, self.histogram.limit(), self._state.stretches())
        too_long = self._draft.value(TOO_LONG)
        self._updates.setText(f"About {cost.updates:,} update{'' if cost.updates == 1 else 's'}")
        split = self._state.texts_are_split
        self._cost.set_tone("bad" if cost.rows and not split else "")
        self._lost.setText("")
        if split:
            self._cost.setText(SPLIT)
        elif cost.rows:
            one = cost.rows == 1
            long = f"{cost.rows:,} row{'' if one else 's'} ({percent(cost.rows / rows)})"
            self._cost.setText(f"{long} {'is' if one else 'are'} {FATE_WORDS[too_long]}")
            share = percent(cost.learned_lost / max(cost.learned, 1))
            most = "at most " if too_long == "truncate" else ""
            self._lost.setText(f"{most}{cost.learned_lost:,} learned tokens ({share}) are lost".capitalize())
        else:
            some_split = any(part.split for part in self._state.stretches())
            self._cost.setText(SOME_SPLIT if some_split else "No row is longer")
            self._lost.setText("No learned token is lost")

    def _build(self) -> None:
        self.add_to_head(self._too_long)
        at_text_size(self.histogram, self.histogram.setMinimumHeight, 150)
        limit = QHBoxLayout()
        limit.setSpacing(theme().px(8))
        limit.addWidget(self._seq_len)
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addWidget(self._cost)
        words.addWidget(self._lost)
        words.addWidget(self._updates)
        words.addWidget(self._half)
        limit.addLayout(words, 1)
        model = QHBoxLayout()
        model.addWidget(self._model, 1)
        model.addWidget(self._change)
        self.body.addWidget(self.histogram)
        self.body.addLayout(limit)
        self.body.addWidget(self._refusal)
        self.body.addWidget(self._target)
        self.body.addLayout(model)

    def _bind(self) -> None:
        self._seq_len.entered.connect(lambda tokens: self._draft.set(SEQ_LEN, tokens))
        self._seq_len.unreadable.connect(lambda reason: self._draft.refuse(SEQ_LEN, reason))
        self._draft.changed.connect(self._show_limit)
        self._draft.refused.connect(self._show_limit)
        self.histogram.moved.connect(lambda _: self._show_cost())
        self._too_long.chosen.connect(lambda value: self._draft.set(TOO_LONG, value))
        self._change.clicked.connect(self.model_asked)


def _why_none(state: DataState) -> str:
    """Why there are no bars."""
    if state.counts.problem is not None:
        return state.counts.problem.message
    if state.counts.words:
        return state.counts.words
    if state.unpacking:
        return "Unpacking the sample model, once"
    return "The sample model is not unpacked yet" if state.sample_waits else "Pick a model to see lengths"
