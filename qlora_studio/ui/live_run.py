"""The run that is going on, as the chip in the rail shows it: word, share, time left, loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer

from qlora_studio.protocol.events import EngineEvent, RunFinished, RunStarted, StepFinished
from qlora_studio.state.app import AppState
from qlora_studio.state.engine import Doing
from qlora_studio.ui.rail import RunChip

if TYPE_CHECKING:
    from qlora_studio.state.monitor import MonitorState

REPAINT_MS = 250

_SMOOTHING = 0.9  # of the seconds a step takes and of the loss
_ICONS = {Doing.SAVING: "save", Doing.PAUSING: "pause", Doing.STOPPING: "square"}


class LiveRun(QObject):
    """folder, name: of the run that trains, is paused or made ready; None where it has no folder yet."""

    def __init__(self, app: AppState, chip: RunChip) -> None:
        super().__init__(chip)
        self.folder: Path | None = None
        self.name = ""
        self._engine = app.engine
        self._launcher = app.launcher
        self._app = app
        self._chip = chip
        self._step_s: float | None = None
        self._loss: float | None = None
        self._last: StepFinished | None = None
        self._repaint = QTimer(self, singleShot=True, interval=REPAINT_MS)
        self._repaint.timeout.connect(self._show_progress)
        self._engine.changed.connect(self._on_changed)
        self._launcher.changed.connect(self._on_changed)
        self._engine.heard.connect(self._on_heard)

    @property
    def preparing(self) -> bool:
        """Whether the chip shows a run that is being made ready."""
        return self._launcher.busy and self._engine.run is None

    def _on_changed(self) -> None:
        engine = self._engine
        if engine.run is not None:
            if engine.run != self.folder:
                self._forget()
                self.folder = engine.run
            self.name = engine.run_name
            silent = engine.silent_s > 0
            self._chip.show_run(
                "Not answering" if silent else engine.doing.value,
                self.name,
                folder=engine.run.name,
                icon_name="triangle-alert" if silent else _ICONS.get(engine.doing, "activity"),
                tone="warn" if silent else "accent",
            )
        elif self._launcher.busy:
            self._forget()
            self.folder, self.name = self._launcher.folder, self._launcher.name
            self._chip.show_run("Preparing", self.name, folder="", icon_name="hourglass", tone="accent")
        elif self.folder is not None and engine.words.startswith("Paused"):
            self._chip.show_run("Paused", self.name, folder=self.folder.name, icon_name="pause", tone="warn")
        else:
            self._forget()
            self._chip.hide()

    def _on_heard(self, event: EngineEvent) -> None:
        match event:
            case RunStarted():
                self._forget_speed()
                self._show_progress()  # a resumed one isn't at its start
            case StepFinished():
                self._follow(event)
            case RunFinished():
                self._show_progress()

    def _follow(self, step: StepFinished) -> None:
        if self._last is not None and step.step > self._last.step:
            took = (step.elapsed_s - self._last.elapsed_s) / (step.step - self._last.step)
            self._step_s = took if self._step_s is None else _smooth(self._step_s, took)
        if step.loss is not None:
            self._loss = step.loss if self._loss is None else _smooth(self._loss, step.loss)
        self._last = step
        if not self._repaint.isActive():
            self._repaint.start()

    def _show_progress(self) -> None:
        engine, monitor = self._engine, self._opened()
        left = self._step_s * (engine.total_steps - engine.step) if self._step_s is not None else None
        if monitor is not None:
            left = monitor.seconds_left
        loss = monitor.smoothed_loss if monitor is not None else self._loss
        self._chip.show_progress(engine.step, engine.total_steps, left if engine.total_steps else None, loss)

    def _opened(self) -> MonitorState | None:
        """The Monitor where it shows this run: its figures stand here too, as the loss is smoothed there and
        the time left is counted; two figures of one thing would contradict each other.
        """
        if "monitor" not in vars(self._app):  # built with its page, as it loads numpy
            return None
        monitor = self._app.monitor
        is_open = monitor.live and monitor.folder == self.folder and len(monitor.points) > 0
        return monitor if is_open else None

    def _forget(self) -> None:
        self.folder = None
        self.name = ""
        self._loss = None
        self._forget_speed()
        self._chip.show_progress(0, 0, None, None)

    def _forget_speed(self) -> None:
        self._step_s = None
        self._last = None


def _smooth(old: float, new: float) -> float:
    return _SMOOTHING * old + (1 - _SMOOTHING) * new
