"""What storing the chosen model in few bits does to it, and whether the paper's claims hold for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QFileDialog, QGridLayout, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from qlora_studio.models.quantization_report import (
    Check,
    QuantizationReport,
    at_block_size,
    checks,
    normal_words,
    outliers,
    perplexity_of,
)
from qlora_studio.state.quantization import QuantizationState
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    IconLabel,
    Meter,
    PlainLabel,
    SecondaryButton,
    Switch,
    empty_layout,
)
from qlora_studio.ui.widgets.allowed import allow

NOTHING_YET = (
    "What NF4, FP4, INT4 and int8 do to this model's weights, and with a text to what it makes of that. "
    "Nothing is trained."
)
SHOWN_OUTLIERS = 3  # layers; the table that is saved has them all
_VERDICTS = {True: ("check", "ok"), False: ("circle-alert", "warn"), None: ("info", "muted")}


class QuantizationCard(Card):
    """Of the model that `QuantizationState` looks at."""

    def __init__(self, state: QuantizationState) -> None:
        super().__init__("Quantization", name="models_quantization")
        self._state = state
        self._shown: QuantizationReport | None = None
        self._build()
        self._bind()

    # Layout -----------------------------------------------------------------------------------------

    def _build(self) -> None:
        self._empty = PlainLabel(NOTHING_YET, "note", wrap=True, name="models_quantization_empty")
        self._all_blocks = Switch(name="models_lab_all_blocks", label="Blocks of 32 to 4,096")
        self._measure = SecondaryButton("Measure", "gauge", small=True, name="models_lab_measure")
        self._on_text = SecondaryButton("With a text…", "file-text", small=True, name="models_lab_text")
        self._save = SecondaryButton("Save…", "download", small=True, name="models_lab_save")
        self._why_not = PlainLabel("", "note", wrap=True, name="models_lab_why_not")
        self._why_not.set_tone("warn")
        self._problem = PlainLabel("", "", wrap=True, name="models_lab_problem")
        self._problem.set_tone("bad")
        blocks = QHBoxLayout()
        blocks.setSpacing(theme().px(8))
        blocks.addWidget(PlainLabel("Blocks of 32 to 4,096, not only 64", wrap=True), 1)
        blocks.addWidget(self._all_blocks)
        buttons = QHBoxLayout()
        buttons.setSpacing(theme().px(8))
        for button in (self._measure, self._on_text, self._save):
            buttons.addWidget(button)
        buttons.addStretch()
        self.body.addWidget(self._empty)
        self.body.addWidget(self._build_found())
        self.body.addWidget(self._build_progress())
        self.body.addWidget(self._problem)
        self.body.addWidget(self._why_not)
        self.body.addLayout(blocks)
        self.body.addLayout(buttons)

    def _build_progress(self) -> QWidget:
        self._progress = QWidget()
        self._doing = PlainLabel("", "note", wrap=True, name="models_lab_doing")
        self._meter = Meter(name="models_lab_meter", label="How far the measurement is", height=6)
        self._stop = SecondaryButton("Stop", "square", small=True, name="models_lab_stop")
        column = QVBoxLayout(self._progress)
        column.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        row.setSpacing(theme().px(8))
        row.addWidget(self._meter, 1)
        row.addWidget(self._stop)
        column.addWidget(self._doing)
        column.addLayout(row)
        return self._progress

    def _build_found(self) -> QWidget:
        self._found = QWidget()
        self._found.setObjectName("models_lab_found")
        column = QVBoxLayout(self._found)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(theme().px(10))
        self._grid = QGridLayout()
        self._grid.setVerticalSpacing(theme().px(4))
        self._grid.setHorizontalSpacing(theme().px(12))
        self._grid.setColumnStretch(0, 1)
        self._levels = LevelsChart(name="models_lab_levels")
        self._checks = QVBoxLayout()
        self._checks.setSpacing(theme().px(6))
        self._outliers = PlainLabel("", "note", wrap=True, name="models_lab_outliers")
        self._about = PlainLabel("", "note", wrap=True, name="models_lab_about")
        column.addLayout(self._grid)
        column.addWidget(self._levels)
        column.addLayout(self._checks)
        column.addWidget(self._outliers)
        column.addWidget(self._about)
        return self._found

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._state.changed.connect(self._refresh)
        self._measure.clicked.connect(self._on_measure)
        self._on_text.clicked.connect(self._on_text_asked)
        self._stop.clicked.connect(self._state.stop)
        self._save.clicked.connect(self._on_save)
        self._refresh()

    def _on_measure(self) -> None:
        self._state.start(all_blocks=self._all_blocks.isChecked())

    def _on_text_asked(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Choose a text, or chats, to read")
        if name:
            self._state.start(name, self._all_blocks.isChecked())

    def _on_save(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Choose where tables and pictures go")
        if name:
            self._state.save(Path(name))

    # What is shown ----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        state = self._state
        why_not = state.why_not
        for button in (self._measure, self._on_text):
            allow(button, why_not)
        self._why_not.setText("" if state.busy_here else why_not)
        self._why_not.setVisible(bool(why_not) and not state.busy_here)
        self._progress.setVisible(state.busy_here)
        share = f" {state.done:,} of {state.total:,}" if state.total else ""
        self._doing.setText(f"{state.words}{share}")
        self._meter.set_share(state.done / state.total if state.total else 0.0)
        allow(self._stop, "It is stopping" if state.stopping else "")
        problem = state.problem
        self._problem.setVisible(problem is not None)
        self._problem.setText(f"{problem.message} {problem.hint}".strip() if problem else "")
        self._empty.setVisible(state.report is None)
        self._found.setVisible(state.report is not None)
        self._save.setVisible(state.report is not None)
        if state.report is not None and state.report is not self._shown:
            self._show(state.report)
        self._shown = state.report

    def _show(self, report: QuantizationReport) -> None:
        empty_layout(self._grid)
        for row, cells in enumerate(_rows(report)):
            for column, words in enumerate(cells):
                cell = PlainLabel(words, "note" if row == 0 else "strong" if column == 0 else "")
                if column:
                    cell.setAlignment(Qt.AlignmentFlag.AlignRight)
                self._grid.addWidget(cell, row, column)
        marks = next((item.values for item in report.levels if item.quant_type == "nf4"), ())
        self._levels.show_counts(report.bins, marks, report.block_size)
        empty_layout(self._checks)
        for item in checks(report):
            self._checks.addWidget(_Verdict(item))
        self._outliers.setText(_outlier_words(report))
        self._about.setText(_about(report))


class _Verdict(QWidget):
    def __init__(self, item: Check) -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(theme().px(8))
        row.addWidget(IconLabel(*_VERDICTS[item.holds]), 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(PlainLabel(f"{item.claim}: {item.verdict}. {item.found}.", wrap=True), 1)


class LevelsChart(QWidget):
    """How the weights lie between -1 and 1 times their block's largest, and where the values of NF4 are."""

    def __init__(self, *, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName("Weights by their block's largest, and the 16 values of NF4")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._counts: tuple[int, ...] = ()
        self._marks: tuple[float, ...] = ()
        self._block_size = 64
        theme().changed.connect(self.updateGeometry)

    def show_counts(self, counts: Sequence[int], marks: Sequence[float], block_size: int) -> None:
        """counts: of equal bins from -1 to 1."""
        self._counts, self._marks, self._block_size = tuple(counts), tuple(marks), block_size
        self.setAccessibleDescription(
            f"{sum(counts):,} weights in {len(counts)} bins; values of NF4 at "
            + ", ".join(f"{mark:.2f}" for mark in marks)
        )
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(theme().px(300), theme().px(110))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setFont(theme().font("note"))
        line = painter.fontMetrics().height()
        area = QRectF(0, 2, self.width(), max(self.height() - line - 6, 1))
        most = max(self._counts, default=0)
        if most:
            width = area.width() / len(self._counts)
            for place, count in enumerate(self._counts):
                height = area.height() * count / most
                bar = QRectF(area.left() + place * width, area.bottom() - height, max(width, 1), height)
                painter.fillRect(bar, theme().color("raw_line"))
        painter.setPen(QPen(QColor(theme().colors.series[1]), 1, Qt.PenStyle.DashLine))
        for mark in self._marks:
            x = area.left() + (mark + 1) / 2 * (area.width() - 1)
            painter.drawLine(int(x), int(area.top()), int(x), int(area.bottom()))
        painter.setPen(theme().color("muted"))
        below = QRectF(0, area.bottom() + 3, self.width(), line)
        for words, side in (
            ("-1", Qt.AlignmentFlag.AlignLeft),
            (f"weight by its block's largest ({self._block_size})", Qt.AlignmentFlag.AlignHCenter),
            ("1", Qt.AlignmentFlag.AlignRight),
        ):
            painter.drawText(below, int(side), words)


def _rows(report: QuantizationReport) -> list[tuple[str, ...]]:
    """The head, then a row for each setting of the report's block size."""
    with_text = bool(report.perplexities)
    rows = [("", "Bits", "Error", "SNR", *(["Perplexity"] if with_text else []))]
    base = perplexity_of(report, "none", False)
    if base is not None:
        rows.append(("16 bit", "16.00", "", "", f"{base.perplexity:.2f}"))
    for _, item in at_block_size(report):
        found = perplexity_of(report, item.quant_type, item.double_quant)
        snr = "" if item.snr_db is None else f"{item.snr_db:.1f} dB"
        measured = ("" if found is None else f"{found.perplexity:.2f}",) if with_text else ()
        rows.append((item.name, f"{item.bits_per_weight:.2f}", f"{item.relative_error:.1%}", snr, *measured))
    return rows


def _outlier_words(report: QuantizationReport) -> str:
    found = outliers(report)
    if not found:
        return "No layer loses far more than the others."
    names = ", ".join(layer.name for layer in found[:SHOWN_OUTLIERS])
    more = f" and {len(found) - SHOWN_OUTLIERS} more" if len(found) > SHOWN_OUTLIERS else ""
    return f"Lose far more than the others: {names}{more}."


def _about(report: QuantizationReport) -> str:
    words = f"{report.weights / 1e6:,.1f} M weights in {len(report.layers):,} linear layers, blocks of "
    words += f"{report.block_size}."
    if report.non_normal_share is not None:
        words += f" {normal_words(report.non_normal_share)}"
    if report.tokens:
        words += f" Perplexity of {report.tokens:,} tokens of {Path(report.text).name}."
    return words
