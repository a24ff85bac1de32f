"""The side of the Train page: what the run needs, what stands in its way, help, the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.config.setting import Field
from qlora_studio.memory.correction import correction_words
from qlora_studio.memory.largest import Largest
from qlora_studio.memory.parts import EMBEDDING, INPUTS, PART_NAMES
from qlora_studio.memory.promise import Promise
from qlora_studio.state.train_problems import Mend, TrainProblem
from qlora_studio.ui.figures import in_gib
from qlora_studio.ui.pages.train_fields import in_words
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    Chip,
    ElidedLabel,
    IconLabel,
    LinkButton,
    LongButton,
    Part,
    PlainLabel,
    Separator,
    StackedBar,
    Swatch,
    empty_layout,
)


class PromiseCard(Card):
    """The memory of the run that is being put together, by part, against what is free."""

    def __init__(self) -> None:
        super().__init__("Memory promise", name="train_promise")
        self._state = Chip("", "neutral", name="train_promise_state")
        self._number = PlainLabel("–", "number_large")
        self._unit = PlainLabel("GiB at the peak", "muted")
        self._bar = StackedBar(name="train_promise_bar", label="Memory promise")
        self._free = PlainLabel("", "note")
        self._free.set_tone("bad")
        self._amounts: dict[str, PlainLabel] = {}
        self._difference = PlainLabel("", "note", name="train_promise_difference")
        self._largest = PlainLabel("", "note", wrap=True, name="train_promise_largest")
        self._note = PlainLabel("", "note", wrap=True, name="train_promise_note")
        self._history = PlainLabel("", "note", wrap=True, name="train_promise_history")
        self._promised: Promise | None = None
        self._build()

    def show_promise(
        self,
        promised: Promise | None,
        on_card: bool,
        layers: int,
        history: str,
        *,
        not_as_asked: Sequence[str] = (),
        at_most: bool = False,
    ) -> None:
        """promised: None while no model is chosen. history: how true the last ones were. not_as_asked: what
        the run won't do, and why. at_most: it is for full batches, and the rows aren't counted yet.
        """
        self.title.setText("VRAM promise" if on_card else "Memory promise")
        self._history.setText(history)
        self._history.setVisible(bool(history))
        self._promised = promised
        if promised is None:
            self._state.set("waits for a model", "neutral", "")
            self._number.setText("–")
            return
        self._state.set(*_fit(promised))
        self._number.setText(f"{promised.total / 2**30:.1f}")
        self._unit.setText(f"GiB at the peak{', at most' if at_most else ''}")
        self.show_difference("", 0)
        where = "free now" if on_card else "of RAM free now"
        self._free.setText(f"{in_gib(promised.free_bytes or 0)} {where}")
        for part, label in self._amounts.items():
            label.setText(f"{promised.parts.get(part, 0) / 2**30:.2f}")
        self._optimizer.setText("Optimizer, paged" if promised.paged else "Optimizer")
        self._note.setText(" ".join(_notes(promised, on_card, layers, not_as_asked)))
        self._note.setVisible(bool(self._note.text()))

    def show_largest(self, largest: Largest | None) -> None:
        """None: no model is chosen, or what is free isn't known."""
        self._largest.setText(largest.words if largest else "")
        self._largest.setVisible(largest is not None)

    def show_difference(self, label: str, difference: int) -> None:
        """What a changed setting takes more or less than its default; 0: none is looked at."""
        self._difference.setText(f"{label}: {difference / 2**30:+.1f} GiB" if difference else "")
        promised = self._promised
        if promised is not None:
            parts = [
                Part(words, promised.parts.get(part, 0) / 2**30, f"vram_{part}")
                for part, words in PART_NAMES.items()
            ]
            free = (promised.free_bytes or 0) / 2**30
            ghost = -difference / 2**30 if difference < 0 else 0.0  # how far the default would reach
            self._bar.set_parts(
                parts, limit=free, total=max(free * 1.04, promised.total / 2**30), ghost=ghost
            )

    def _build(self) -> None:
        self.add_to_head(self._state)
        line = QHBoxLayout()
        line.setSpacing(theme().px(6))
        line.addWidget(self._number)
        line.addWidget(self._unit, 1, Qt.AlignmentFlag.AlignBottom)
        self._unit.setContentsMargins(0, 0, 0, theme().px(5))
        self.body.addLayout(line)
        self.body.addWidget(self._bar)
        under = QHBoxLayout()
        under.addWidget(self._difference, 1)
        under.addWidget(self._free)
        self.body.addLayout(under)
        self.body.addWidget(self._largest)
        legend = QGridLayout()
        legend.setVerticalSpacing(theme().px(6))
        legend.setHorizontalSpacing(theme().px(8))
        legend.setColumnStretch(1, 1)
        for row, (part, words) in enumerate(PART_NAMES.items()):
            amount = PlainLabel("–", "strong")
            self._amounts[part] = amount
            name = PlainLabel(words)
            if part == "optimizer":
                self._optimizer = name
            legend.addWidget(Swatch(f"vram_{part}"), row, 0)
            legend.addWidget(name, row, 1)
            legend.addWidget(amount, row, 2, Qt.AlignmentFlag.AlignRight)
        self.body.addLayout(legend)
        self.body.addWidget(self._note)
        self.body.addWidget(self._history)


class ProblemsCard(Card):
    """What to look at before the start, each with the buttons that mend it. chosen: a Mend."""

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__("Before you start", name="train_problems")
        self._count = Chip("", "neutral", name="train_problems_count")
        self.add_to_head(self._count)
        self._waiting, self._waits = QWidget(), PlainLabel("", wrap=True, name="train_looking_at")
        waiting = QHBoxLayout(self._waiting)
        waiting.setContentsMargins(0, 0, 0, 0)
        waiting.setSpacing(theme().px(8))
        waiting.addWidget(IconLabel("hourglass", "muted"), 0, Qt.AlignmentFlag.AlignTop)
        waiting.addWidget(self._waits, 1)
        self.body.addWidget(self._waiting)
        self._well = PlainLabel("Nothing stands in the way.", "muted")
        self.body.addWidget(self._well)
        self._rows = QVBoxLayout()
        self._rows.setSpacing(theme().px(10))
        self.body.addLayout(self._rows)
        self._shown: list[TrainProblem] = []
        self.show_waiting((), "")

    def show_waiting(self, holding: Sequence[str], counting: str) -> None:
        """holding: what the start waits for; counting: what goes on besides, and may find more."""
        words = [f"Start waits for: {holding[0][:1].lower()}{holding[0][1:]}"] if holding else []
        words += holding[1:]
        if counting:
            words.append(f"{counting}. What that finds stands here.")
        self._waits.setText("\n".join(words))
        self._waiting.setVisible(bool(words))
        self._show_count()

    def show_problems(self, problems: list[TrainProblem]) -> None:
        """Drawn anew only where they changed: a button must not go away under the pointer."""
        if problems == self._shown:
            return
        self._shown = list(problems)
        self._show_count()
        empty_layout(self._rows)
        for number, problem in enumerate(problems):
            if number:
                self._rows.addWidget(Separator())
            self._rows.addWidget(self._row(number, problem))

    def _show_count(self) -> None:
        """What blocks comes first; well is only what was looked at to the end."""
        blocking, waiting = sum(problem.blocks for problem in self._shown), not self._waiting.isHidden()
        self._well.setVisible(not self._shown and not waiting)
        if blocking:
            self._count.set(f"{blocking} to mend", "bad", "circle-alert")
        elif waiting:
            self._count.set("looking", "neutral", "hourglass")
        elif self._shown:
            self._count.set(f"{len(self._shown)} to look at", "warn", "triangle-alert")
        else:
            self._count.set("All well", "ok", "check")

    def _row(self, number: int, problem: TrainProblem) -> QWidget:
        row = QWidget()
        layout = QVBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(8))
        head = QHBoxLayout()
        head.setSpacing(theme().px(8))
        icon, color = ("circle-alert", "bad") if problem.blocks else ("triangle-alert", "warn")
        mark = IconLabel(icon, color, label="Blocks the start" if problem.blocks else "Warning")
        head.addWidget(mark, 0, Qt.AlignmentFlag.AlignTop)
        head.addWidget(PlainLabel(problem.words, wrap=True), 1)
        layout.addLayout(head)
        for place, mend in enumerate(problem.mends):
            button = LongButton(mend.words, small=True, name=f"train_mend_{number}_{place}")
            button.clicked.connect(lambda _=False, mend=mend: self._on_clicked(mend))
            layout.addWidget(button, 0, Qt.AlignmentFlag.AlignLeft)
        return row

    def _on_clicked(self, mend: Mend) -> None:
        self.chosen.emit(mend)


class HelpCard(Card):
    """What the setting under the pointer, or with the focus, does."""

    def __init__(self) -> None:
        super().__init__("Help", name="train_help", icon_name="circle-question-mark")
        self._text = PlainLabel("Point at a setting to read what it does.", "muted", wrap=True)
        self._key = PlainLabel("", "note", wrap=True)
        self.body.addWidget(self._text)
        self.body.addWidget(self._key)
        self._key.hide()

    def show_field(self, item: Field) -> None:
        setting = item.setting
        self.title.setText(setting.label)
        self._text.setText(setting.help)
        limits = ""
        if setting.minimum is not None and setting.maximum is not None:
            limits = f" · {setting.minimum:,g} to {setting.maximum:,g}"
        self._key.setText(f"{item.key}{limits} · default {in_words(item, item.default)}")
        self._key.show()


class CommandCard(Card):
    """The same run without the window. copied: the command's text."""

    copied = Signal(str)

    def __init__(self) -> None:
        super().__init__("Same run without the window", name="train_command_card")
        self._copy = LinkButton("Copy", "copy", name="train_copy_command")
        self._copy.clicked.connect(self._on_copy)
        self.add_to_head(self._copy)
        self._text = ElidedLabel("", "command", name="train_command")
        self.body.addWidget(self._text)
        self.body.addWidget(
            PlainLabel("Copy writes these settings into the file it names.", "note", wrap=True)
        )

    def show_command(self, text: str) -> None:
        """text: as it would be typed."""
        if text != self._text.full_text():
            self._text.setText(text)

    def text(self) -> str:
        """As shown."""
        return self._text.full_text()

    def _on_copy(self) -> None:
        self.copied.emit(self._text.full_text())


def _fit(promised: Promise) -> tuple[str, str, str]:
    if promised.free_bytes is None:
        return "free memory unknown", "neutral", "info"
    spare = promised.free_bytes - promised.total
    if promised.lacks_ram and spare >= 0:
        over = promised.pinned - (promised.free_ram or 0)
        return f"Too little RAM, {in_gib(max(over, 0))} over", "bad", "circle-alert"
    if promised.verdict == "too large":
        return f"Does not fit, {in_gib(-spare)} over", "bad", "circle-alert"
    if promised.verdict == "tight":
        return f"Tight, {in_gib(max(spare, 0))} spare", "warn", "triangle-alert"
    return f"Fits, {in_gib(spare)} spare", "ok", "check"


def _what_lies_in_ram(promised: Promise) -> str:
    if EMBEDDING not in promised.in_ram:
        return "Their inputs take"
    return "Their inputs and the embedding take" if INPUTS in promised.in_ram else "The embedding takes"


def _notes(promised: Promise, on_card: bool, layers: int, not_as_asked: Sequence[str]) -> Iterator[str]:
    if promised.recompute_layers:
        yield f"{promised.recompute_layers} of {layers} layers are computed again to save memory."
    yield from not_as_asked
    if promised.pinned:
        of_free = f" of {in_gib(promised.free_ram)} free" if promised.free_ram is not None else ""
        yield f"{_what_lies_in_ram(promised)} {in_gib(promised.pinned)}{of_free} in RAM."
    if said := correction_words(promised.factor):
        yield said
    if promised.largest_phase != "training":
        most = in_gib(promised.phases[promised.largest_phase])
        yield f"The most is taken by {promised.largest_phase}: {most}."
    if not on_card:
        yield "On the processor every optimizer runs as AdamW in 32 bit and isn't paged."
