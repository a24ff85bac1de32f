"""Runs that were made to be compared: how far they are, and the table of what came out."""

from __future__ import annotations

from PySide6.QtCore import Qt, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QGridLayout, QHBoxLayout

from qlora_studio.runs.sweep import Row
from qlora_studio.state.sweep import Opened, SweepState
from qlora_studio.ui.figures import in_gib
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    IconButton,
    Meter,
    PlainLabel,
    SecondaryButton,
    empty_layout,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.flow import Flow

HEAD = ("", "Evaluation loss", "Less the first", "Trained", "Peak")


class SweepCard(Card):
    """Of the sweep that is made now, or of the newest. lay_over: its finished runs are to be compared."""

    lay_over = Signal()

    def __init__(self, state: SweepState) -> None:
        super().__init__("Comparison", name="runs_sweep")
        self._state = state
        self._shown: Opened | None = None
        self._build()
        self._bind()

    # Layout -----------------------------------------------------------------------------------------

    def _build(self) -> None:
        self._words = PlainLabel("", "", wrap=True, name="runs_sweep_words")
        self._meter = Meter(name="runs_sweep_meter", label="How many of its runs are finished", height=6)
        self._problem = PlainLabel("", "", wrap=True, name="runs_sweep_problem")
        self._problem.set_tone("bad")
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(theme().px(16))
        self._grid.setVerticalSpacing(theme().px(4))
        self._grid.setColumnStretch(len(HEAD), 1)
        self._go_on = SecondaryButton("Go on", "play", small=True, name="runs_sweep_go_on")
        self._stop = SecondaryButton("Stop after saving", "pause", small=True, name="runs_sweep_stop")
        self._lay = SecondaryButton(
            "Lay them over each other", "layers", small=True, name="runs_sweep_lay_over"
        )
        self._folder = IconButton("folder-open", "Open its folder", small=True, name="runs_sweep_folder")
        buttons = Flow(gap=8, line_gap=6)
        for button in (self._go_on, self._stop, self._lay, self._folder):
            buttons.addWidget(button)
        head = QHBoxLayout()
        head.addWidget(self._words, 1)
        self.body.addLayout(head)
        self.body.addWidget(self._meter)
        self.body.addWidget(self._problem)
        self.body.addLayout(self._grid)
        self.body.addLayout(buttons)

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._state.changed.connect(self._refresh)
        self._go_on.clicked.connect(self._state.go_on)
        self._stop.clicked.connect(self._state.stop)
        self._lay.clicked.connect(self.lay_over)
        self._folder.clicked.connect(self._on_folder)
        self._refresh()

    def _on_folder(self) -> None:
        if self._state.opened is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._state.opened.folder)))

    # What is shown ----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        state, opened = self._state, self._state.opened
        self.setVisible(opened is not None)
        if opened is None:
            return
        self.title.setText(opened.sweep.title)
        self._words.setText(state.words)
        self._meter.set_share(opened.finished / len(opened.results))
        self._problem.setVisible(state.problem is not None)
        if state.problem is not None:
            self._problem.setText(f"{state.problem.message} {state.problem.hint}".strip())
        ready = opened.next_place is None
        self._go_on.setVisible(not state.running and not ready)
        allow(self._go_on, state.why_not)
        self._stop.setVisible(state.running)
        self._lay.setVisible(opened.finished > 1)
        if opened is not self._shown:
            self._show(opened.rows)
        self._shown = opened

    def _show(self, rows: list[Row]) -> None:
        empty_layout(self._grid)
        for line, cells in enumerate((HEAD, *map(_cells, rows))):
            for column, words in enumerate(cells):
                cell = PlainLabel(words, "note" if line == 0 else "strong" if column == 0 else "")
                if column:
                    cell.setAlignment(Qt.AlignmentFlag.AlignRight)
                self._grid.addWidget(cell, line, column)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.label,
        _with_interval(row.loss, row.error),
        _with_interval(row.less, row.less_error),
        f"{row.parameters / 1e6:,.2f} M",
        in_gib(row.peak_bytes) if row.peak_bytes else "",
    )


def _with_interval(value: float | None, error: float | None) -> str:
    """ "1.234 ± 0.010": half of the 95 % interval."""
    if value is None:
        return ""
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"
