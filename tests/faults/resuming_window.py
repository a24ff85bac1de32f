"""The window on a run, and a person in it who clicks Resume whenever that can be clicked.

`python -m tests.faults.resuming_window RUN`, for the kill loop: says on stdout, a line each, what the engine
tells ("heard <event> <step> <process id>"), each click ("resume") and each end ("ended"); closes when the run
is finished.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("WAKEPY_FAKE_SUCCESS", "1")

import psutil
from PySide6.QtCore import Qt, QTimer
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton

from qlora_studio.protocol import events
from qlora_studio.state.app import AppState
from qlora_studio.ui import window

LOOK_EVERY_MS = 50
RESUME = ("monitor_resume", "monitor_pause")  # in the banner of an interrupted run; where Pause was


class ResumingShell(window.Shell):
    """Looks for the button a few times a second."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app)
        self._of = app
        self._eyes = QTimer(self, interval=LOOK_EVERY_MS)
        self._eyes.timeout.connect(self._look)
        self._eyes.start()
        app.engine.heard.connect(self._on_told)
        app.engine.ended.connect(lambda words: say("ended", words))

    def _look(self) -> None:
        run = self._of.monitor.run
        if run is None or self._of.engine.training or self._of.launcher.busy:
            return
        if run.state.state == "finished":
            self._eyes.stop()
            self.close()
            return
        for name in RESUME:
            button = self.findChild(QAbstractButton, name)
            if button is not None and button.isVisible() and button.isEnabled():
                say("resume")
                QTest.mouseClick(button, Qt.MouseButton.LeftButton)
                return

    def _on_told(self, event: events.EngineEvent) -> None:
        say("heard", type(event).__name__, getattr(event, "step", 0), engine_of(os.getpid()))


def engine_of(window_id: int) -> int:
    """Process id of a window's engine; 0 where it has none."""
    for child in psutil.Process(window_id).children():
        try:
            if "qlora_studio.engine" in child.cmdline():
                return child.pid
        except psutil.Error:  # it ended just now
            continue
    return 0


def say(*words: object) -> None:
    print(*words, flush=True)


if __name__ == "__main__":
    vars(window)["Shell"] = ResumingShell
    sys.exit(window.open_window(run=sys.argv[1]))
