"""The cards around the Monitor's charts: titles, legends, what the crosshair reads, notes under them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from qlora_studio.state.curves import PARTS, Points
from qlora_studio.state.monitor import MonitorState
from qlora_studio.state.named_rows import longest_first
from qlora_studio.ui import figures
from qlora_studio.ui.pages.monitor_chart import StepChart, in_powers
from qlora_studio.ui.pages.monitor_curves import LossChart
from qlora_studio.ui.pages.monitor_memory import MemoryChart
from qlora_studio.ui.pages.monitor_stretch import Stretch
from qlora_studio.ui.pages.monitor_table import evaluation_words
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    ChoiceChip,
    IconButton,
    IconLabel,
    LinkButton,
    PlainLabel,
    Slider,
    Swatch,
)
from qlora_studio.ui.widgets.flow import Flow
from qlora_studio.ui.widgets.line_sample import LineSample
from qlora_studio.ui.widgets.rows import in_line
from qlora_studio.ui.widgets.text_size import at_text_size

UNITS = {  # of the loss, by method
    "sft": "nats per learned token",
    "dpo": "nats per pair",
    "orpo": "nats per pair",
    "kto": "per rated answer, 0 to 1",
}
SETTLE_MS = 60  # after the slider moved: a million points aren't smoothed at each pixel
_SLIDER_END = 100
_BESIDE = 8  # px at 100 % from a spike that still count as a click on it
_PART_WORDS = {part: part.capitalize() for part in PARTS}


class LossCard(Card):
    """The chart of the loss with its legend.

    smoothing: the weight that was chosen, 0 to 0.999
    """

    smoothing = Signal(float)

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(name="monitor_loss_card")
        self.setAccessibleName("Loss")
        self.chart = LossChart(stretch)
        self.log = ChoiceChip("Log", name="monitor_loss_log")
        self.fit = LinkButton("Fit", name="monitor_fit", tip="Show all steps (F)")
        self.table = IconButton("table", "Show as a table (T)", name="monitor_as_table", small=True)
        self.export = IconButton("image-down", "Save picture and table", name="monitor_export", small=True)
        self._slider = Slider(0, _SLIDER_END, name="monitor_smoothing", label="Smoothing, 0 to 0.999")
        at_text_size(self._slider, self._slider.setFixedWidth, 64)
        self._weight = PlainLabel("", "note")
        at_text_size(self._weight, self._weight.setFixedWidth, 36)
        self._unit = PlainLabel(UNITS["sft"], "muted", name="monitor_loss_unit")
        self._waiting = PlainLabel("", "muted", wrap=True, name="monitor_waiting")
        self._waiting.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._skipped = PlainLabel("", "note", name="monitor_skipped")
        self._settle = QTimer(self, interval=SETTLE_MS, singleShot=True)
        self._settle.timeout.connect(lambda: self.smoothing.emit(self.weight()))
        self._build()
        self._slider.valueChanged.connect(self._on_moved)
        self.log.toggled.connect(self.chart.set_log)
        self.fit.clicked.connect(stretch.show_all)

    def show_method(self, method: str) -> None:
        """What the loss is a mean of."""
        self._unit.setText(UNITS.get(method, UNITS["sft"]))

    def _build(self) -> None:
        legend = in_line(
            in_line(LineSample("raw_line", 1.2), PlainLabel("Each step", "note")),
            in_line(LineSample(0, 2.6), PlainLabel("Smoothed", "note"), self._slider, self._weight),
            in_line(LineSample(1, 2.0, marker=True), PlainLabel("Evaluation", "note")),
            gap=10,
        )
        head = Flow(gap=16, line_gap=4, last_at_right=True)
        head.addWidget(in_line(PlainLabel("Loss", "card_title"), self._unit))
        head.addWidget(legend)
        head.addWidget(in_line(self.log, self.fit, self.table, self.export))
        at_text_size(self.chart, self.chart.setMinimumHeight, 210)
        self.body.addLayout(head)
        self.body.addWidget(self._waiting)
        self.body.addWidget(self.chart, 1)
        self.body.addWidget(self._skipped)
        self._waiting.hide()
        self._skipped.hide()

    def weight(self) -> float:
        """As the slider stands: 0, 0.5, 0.9, 0.97, 0.99 lie about as far from each other."""
        return round(1 - 10 ** (-3 * self._slider.value() / _SLIDER_END), 3)

    def show_weight(self, weight: float) -> None:
        """Without telling it again."""
        self._slider.blockSignals(True)
        self._slider.setValue(round(-math.log10(1 - min(weight, 0.999)) / 3 * _SLIDER_END))
        self._slider.blockSignals(False)
        self._weight.setText(f"{self.weight():g}")

    def show_waiting(self, words: str) -> None:
        """What goes on before the first step."""
        self._waiting.setText(words)
        self._waiting.setVisible(bool(words))

    def show_skipped(self, lines: int) -> None:
        """R5: what could not be read is counted."""
        self._skipped.setVisible(lines > 0)
        self._skipped.setText(f"{lines:,} {'line' if lines == 1 else 'lines'} of metrics.jsonl skipped")

    def _on_moved(self) -> None:
        self._weight.setText(f"{self.weight():g}")
        self._settle.start()


class MemoryCard(Card):
    """Memory by part, with a note for one of its spikes: the highest, until another is chosen.

    spike:  the step of the one in the note
    chosen: the step of one that a person asked for
    """

    spike = Signal(int)
    chosen = Signal(int)

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(name="monitor_vram_card")
        self.chart = MemoryChart(stretch)
        at_text_size(self.chart, self.chart.setMinimumHeight, 190)
        self._what = PlainLabel("VRAM", "card_title")
        head = Flow(gap=12, line_gap=4)
        head.addWidget(in_line(self._what, PlainLabel("GiB, peak of each step", "muted")))
        self._legend: dict[str, QWidget] = {}
        for part, words in _PART_WORDS.items():
            self._legend[part] = in_line(Swatch(f"vram_{part}"), PlainLabel(words, "note"))
            head.addWidget(self._legend[part])
        self._beside = {
            "others": in_line(
                Swatch("vram_other", Qt.BrushStyle.Dense5Pattern), PlainLabel("Other programs", "note")
            ),
            "in_ram": in_line(
                Swatch("text", Qt.BrushStyle.BDiagPattern), PlainLabel("Optimizer in RAM", "note")
            ),
        }
        for widget in self._beside.values():
            head.addWidget(widget)
            widget.hide()
        self.body.addLayout(head)
        self._note = QFrame()
        self._note.setObjectName("monitor_spike")
        self._letter, self._words = PlainLabel("", "strong"), PlainLabel("", "muted", wrap=True)
        row = QHBoxLayout(self._note)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(theme().px(8))
        row.addWidget(IconLabel("triangle-alert", "warn", label="Spike"))
        row.addWidget(self._letter)
        row.addWidget(self._words, 1)
        self._next = LinkButton("Next spike", name="monitor_next_spike", tip="Which step, and its rows")
        tip = "These rows on the Data page, token by token"
        self.rows = LinkButton("Show rows", name="monitor_show_rows", tip=tip)
        row.addWidget(self._next)
        row.addWidget(self.rows)
        self._stretch, self._chosen = stretch, -1  # a place in its points
        self._rows: tuple[int | None, tuple[int, ...], tuple[int, ...]] = (None, (), ())
        self._next.clicked.connect(self._on_next)
        self.chart.clicked_at.connect(self._on_clicked)
        self._words_of_memory = PlainLabel("", "muted", wrap=True, name="monitor_memory_words")
        self._words_of_memory.hide()
        self.body.addWidget(self.chart, 1)
        self.body.addWidget(self._note)
        self.body.addWidget(self._words_of_memory)

    def show_state(self, state: MonitorState) -> None:
        """Which memory it is, and its lines."""
        on_card = state.on_card
        self._what.setText("VRAM" if on_card else "Process memory")
        for widget in (self, self.chart):
            widget.setAccessibleName(self._what.text())
        promised = state.figures.promised_bytes
        self.chart.set_levels("card limit" if on_card else "RAM", state.limit_bytes, promised)
        self._words_of_memory.setText(state.memory_words)
        self._words_of_memory.setVisible(bool(state.memory_words))
        rows = (state.spike_step, state.spike_rows, state.spike_tokens)
        if self._rows != rows:
            self._rows = rows
            self.show_points(state.points)

    def show_points(self, points: Points) -> None:
        """The legend names the parts that were measured; the note the highest spike."""
        for part, widget in self._legend.items():
            widget.setVisible(part in points.memory or not points.memory)
        for name, widget in self._beside.items():
            widget.setVisible(bool(getattr(points, name).any()))
        places = points.spikes
        self._note.setVisible(bool(places))
        self._next.setVisible(len(places) > 1)
        if not places:
            self._chosen = -1
            return
        if self._chosen not in places:
            self._chosen = max(places, key=lambda place: points.memory_needed[place])
        self._letter.setText("ABCDEFGHIJ"[places.index(self._chosen)])
        step, rows, tokens = self._rows
        known = step == int(points.steps[self._chosen])
        of_it = rows_words(rows, tokens) if known else ""
        self.rows.setVisible(known and bool(rows))
        self._words.setText(f"{spike_words(points, self._chosen)} {of_it}".rstrip())
        self.spike.emit(int(points.steps[self._chosen]))

    def _on_clicked(self, step: float) -> None:
        """On a spike's mark, or right beside it."""
        points, at = self._stretch.points, self.chart.x_of(step)
        off = {place: abs(self.chart.x_of(float(points.steps[place])) - at) for place in points.spikes}
        nearest = min(off, key=lambda place: off[place], default=-1)
        if nearest >= 0 and off[nearest] <= theme().px(_BESIDE):
            self._chosen = nearest
            self.show_points(points)
            self.chosen.emit(int(points.steps[nearest]))

    def _on_next(self) -> None:
        """The crosshair goes there, too."""
        points = self._stretch.points
        later = [place for place in points.spikes if place > self._chosen]
        self._chosen = later[0] if later else points.spikes[0]
        self._stretch.point_at(self._chosen)
        self.show_points(points)
        self.chosen.emit(int(points.steps[self._chosen]))


def rows_words(rows: Sequence[int], tokens: Sequence[int] = (), most: int = 6) -> str:
    """Counted from 1, with their lengths where these are known, the longest first; empty without rows."""
    if not rows:
        return ""
    of_each = longest_first(rows, tokens)[:most]
    named = ", ".join(
        f"{row + 1:,} ({count:,} tokens)" if count else f"{row + 1:,}" for row, count in of_each
    )
    more = f" and {len(rows) - most:,} more" if len(rows) > most else ""
    return f"It computed training {'row' if len(rows) == 1 else 'rows'} {named}{more}."


def spike_words(points: Points, place: int) -> str:
    """Step, size, and what happened just before it."""
    import numpy as np

    step, size = int(points.steps[place]), float(points.memory_needed[place])
    over = size - float(np.median(points.memory_needed))
    words = f"Step {step:,} took {figures.in_gib(size)}, {over / 2**30:.1f} over the median"
    if points.in_ram[place]:
        words += f", with {figures.in_gib(float(points.in_ram[place]))} of the optimizer in RAM"
    if any(line.step == step - 1 for line in points.evaluations):
        return f"{words}; it came right after an evaluation."
    if step - 1 in points.checkpoints:
        return f"{words}; it came right after a save."
    return f"{words}."


class SmallCard(Card):
    """A small chart with its newest value beside the title."""

    def __init__(self, title: str, chart: StepChart, *, name: str) -> None:
        super().__init__(name=name)
        self.setAccessibleName(title)
        self.chart = chart
        self._value = PlainLabel("", "label")
        self.layout().setContentsMargins(*(theme().px(side) for side in (12, 9, 8, 4)))  # type: ignore[union-attr]
        head = QHBoxLayout()
        head.addWidget(PlainLabel(title, "label"), 1)
        head.addWidget(self._value)
        self.body.setSpacing(theme().px(2))
        self.body.addLayout(head)
        at_text_size(chart, chart.setMinimumHeight, 76)
        chart.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.body.addWidget(chart, 1)

    def show_value(self, words: str) -> None:
        """In the title line."""
        self._value.setText(words)
        self.chart.setAccessibleDescription(words)


class ChartReadout(QFrame):
    """What the crosshair reads: step, time since the start, one line a curve. Floats over the loss chart."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("monitor_readout")
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._title = PlainLabel("", "label")
        self._rows: dict[str, tuple[PlainLabel, PlainLabel]] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(*(theme().px(side) for side in (11, 8, 11, 9)))
        layout.setSpacing(theme().px(4))
        layout.addWidget(self._title)
        grid = QGridLayout()
        grid.setHorizontalSpacing(theme().px(8))
        grid.setVerticalSpacing(theme().px(3))
        samples = {
            "Loss": LineSample("raw_line", 1.2),
            "Smoothed": LineSample(0, 2.6),
            "Evaluation": LineSample(1, 2.0, marker=True),
            "Learning rate": LineSample(2, 1.8, solid=True),
            "Gradient norm": LineSample(3, 1.4, solid=True),
            "Tokens/s": LineSample(0, 1.4),
            "Memory": Swatch("vram_activations"),
        }
        for row, (words, sample) in enumerate(samples.items()):
            name, value = PlainLabel(words, "note"), PlainLabel("", "label")
            value.setAlignment(Qt.AlignmentFlag.AlignRight)
            grid.addWidget(sample, row, 0, Qt.AlignmentFlag.AlignCenter)
            grid.addWidget(name, row, 1)
            grid.addWidget(value, row, 2)
            self._rows[words] = (name, value)
        grid.setColumnStretch(1, 1)
        layout.addLayout(grid)
        at_text_size(self, self.setMinimumWidth, 190)
        self.hide()

    def show_place(self, points: Points, place: int) -> None:
        """place: in `points`."""
        step = int(points.steps[place])
        parts = [f"Step {step:,}", figures.duration(float(points.elapsed_s[place]))]
        if step in points.checkpoints:
            parts.append("saved")
        self._title.setText(" · ".join(parts))
        evaluation = next((line for line in reversed(points.evaluations) if line.step <= step), None)
        self._rows["Evaluation"][0].setText(
            f"Evaluation, {evaluation.step:,}" if evaluation else "Evaluation"
        )
        values = {
            "Loss": figures.loss(float(points.loss[place])),
            "Smoothed": figures.loss(float(points.smoothed[place])),
            "Evaluation": evaluation_words(evaluation) if evaluation else "–",
            "Learning rate": in_powers(float(points.learning_rate[place])),
            "Gradient norm": _number(float(points.grad_norm[place]), ".3f"),
            "Tokens/s": _number(float(points.tokens_per_second[place]), ",.0f"),
            "Memory": figures.in_gib(float(points.memory_total[place])),
        }
        for words, value in values.items():
            self._rows[words][1].setText(value)
        spoken = ", ".join(f"{words} {value}" for words, value in values.items())
        self.setAccessibleName(f"{self._title.text()}: {spoken}")
        self.adjustSize()

    def stand_beside(self, x: int, width: int) -> None:
        """x: of the crosshair in the parent, whose width is `width`."""
        right = x + theme().px(12)
        fits = right + self.width() < width - theme().px(6)
        self.move(right if fits else max(x - theme().px(12) - self.width(), 0), theme().px(6))
        self.raise_()
        self.show()


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "not a number"
