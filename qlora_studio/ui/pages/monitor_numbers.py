"""The Monitor's figures: is it learning, is it safe, when is it done, what does it cost."""

from __future__ import annotations

import time

from PySide6.QtWidgets import QGridLayout, QWidget

from qlora_studio.memory.correction import STEPS_MEASURED
from qlora_studio.state.run_figures import RunFigures
from qlora_studio.ui import figures
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import NumberCard

_PEAK_OFF = 0.10  # of the promise: more is no longer what was promised
_LEAST_WIDTH = 150  # px of a card


class Numbers(QWidget):
    """Six cards in a row, or on as many rows as the width asks for."""

    def __init__(self) -> None:
        super().__init__()
        self._loss = NumberCard("Loss, smoothed", name="monitor_number_loss")
        self._evaluation = NumberCard("Evaluation loss", name="monitor_number_evaluation")
        self._step = NumberCard("Step", name="monitor_number_step")
        self._left = NumberCard("Time left", name="monitor_number_time")
        self._speed = NumberCard("Speed", name="monitor_number_speed")
        self._peak = NumberCard("VRAM peak", name="monitor_number_peak")
        self._cards = (self._loss, self._evaluation, self._step, self._left, self._speed, self._peak)
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(theme().px(theme().size.grid))
        self._columns = 0
        for card in self._cards:
            card.keep_snug()
        self.fit(len(self._cards) * theme().px(2 * _LEAST_WIDTH))

    def fit(self, width: int) -> None:
        """width: px there are for all of them."""
        room = width // (theme().px(_LEAST_WIDTH) + self._grid.spacing())
        columns = next((count for count in (6, 3, 2) if count <= room), 1)
        if columns == self._columns:
            return
        self._columns = columns
        for place, card in enumerate(self._cards):
            self._grid.addWidget(card, place // columns, place % columns)
        for column in range(len(self._cards)):
            self._grid.setColumnStretch(column, 1 if column < columns else 0)

    def show_figures(self, found: RunFigures, *, live: bool, on_card: bool) -> None:
        """live: it trains here; on_card: memory is a card's, not the process's."""
        change = found.loss_change
        self._loss.set_value(
            figures.loss(found.loss),
            note=""
            if change is None
            else f"{'down' if change < 0 else 'up'} {abs(change):.3f} in {found.change_steps:,} steps",
        )
        self._show_evaluation(found)
        self._show_time(found, live)
        total = f"of {found.total_steps:,}" if found.total_steps else ""
        epoch = f"epoch {found.epoch:.2f} of {found.epochs:g}" if found.epoch and found.epochs else ""
        self._step.set_value(f"{found.step:,}", total, epoch)
        speed = "–" if found.tokens_per_second is None else f"{found.tokens_per_second:,.0f}"
        learned = found.learned_share
        share = "" if learned is None else f"{figures.share(learned)} of them learned from"
        self._speed.set_value(speed, "tokens/s", share)
        self._show_peak(found, on_card)

    def _show_evaluation(self, found: RunFigures) -> None:
        if found.evaluation is None or found.best is None:
            self._evaluation.set_value("–", note="none yet")
            return
        (loss, step), (best, best_step) = found.evaluation, found.best
        right = "" if found.right_share is None else f"{figures.share(found.right_share)} right"
        if step == best_step:
            self._evaluation.set_value(figures.loss(loss), right, f"best so far, step {step:,}", tone="ok")
        else:
            self._evaluation.set_value(figures.loss(loss), right, f"best {best:.3f} at step {best_step:,}")

    def _show_time(self, found: RunFigures, live: bool) -> None:
        took = figures.duration(found.elapsed_s) if found.elapsed_s is not None else "–"
        if not live:
            self._left.caption.setText("Time")
            self._left.set_value(*_figure(took), "of training")
            return
        self._left.caption.setText("Time left")
        if found.seconds_left is None:
            self._left.set_value("–", note=f"{took} so far" if found.elapsed_s is not None else "")
            return
        ends = time.strftime("%H:%M", time.localtime(time.time() + found.seconds_left))
        self._left.set_value(*_figure(figures.duration(found.seconds_left)), f"ends about {ends}")

    def _show_peak(self, found: RunFigures, on_card: bool) -> None:
        self._peak.caption.setText("VRAM peak" if on_card else "Memory peak")
        if found.peak_bytes is None:
            self._peak.set_value("–", "GiB", _promised(found))
            return
        note, tone = _promised(found), ""
        if found.promised_bytes and found.steps_measured >= STEPS_MEASURED:
            off = found.peak_bytes / found.promised_bytes - 1
            note += f", off by {abs(off) * 100:.1f}{figures.THIN}%"
            tone = "ok" if abs(off) <= _PEAK_OFF else "warn" if off > 0 else ""
        self._peak.set_value(f"{found.peak_bytes / 2**30:,.1f}", "GiB", note, tone)


def _figure(duration: str) -> tuple[str, str]:
    """Number and unit; hours and minutes are one figure."""
    number, _, unit = duration.rpartition(figures.THIN)
    return (duration, "") if not number or " " in number else (number, unit)


def _promised(found: RunFigures) -> str:
    return f"promised {found.promised_bytes / 2**30:,.1f}" if found.promised_bytes else ""
