"""The window's shell that goes through rounds by itself, and reads what they cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from PySide6.QtCore import QTimer
from PySide6.QtGui import QShowEvent

from qlora_studio.state.app import AppState
from qlora_studio.ui.shell import Shell
from tests.soak import meter
from tests.soak.rounds import Rounds

READ_EVERY_S = 30


@dataclass
class Soak:
    """What is asked of it, and what came of it. csv: for the readings; folder: for its other files."""

    minutes: float
    csv: Path
    folder: Path
    readings: list[meter.Reading] = field(default_factory=list)
    whole: bool = False  # whether it came to its end


class SoakedShell(Shell):
    """Goes through rounds until its time is over, then closes."""

    def __init__(self, soak: Soak, app: AppState) -> None:
        super().__init__(app)
        self._soak = soak
        self._app_state = app
        self._began = time.monotonic()
        self._round = 0
        self._clock = QTimer(self, interval=READ_EVERY_S * 1000)
        self._clock.timeout.connect(lambda: self._read(at_rest=False))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if not self._clock.isActive():
            self._clock.start()
            QTimer.singleShot(2_000, self, self._go)

    def _go(self) -> None:
        soak = self._soak
        rounds = Rounds(self._app_state, self, soak.folder, soak.folder / "data" / "Trash")
        try:
            while self._seconds() < soak.minutes * 60:
                self._round += 1
                rounds.go(self._round)
                self._read(at_rest=True)
            soak.whole = True
        finally:
            self._clock.stop()
            self._app_state.engine.release()
            self.close()

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _read(self, at_rest: bool) -> None:
        readings = self._soak.readings
        reading = meter.read(self._seconds(), self._round, at_rest, len(readings))
        readings.append(reading)
        meter.write_csv(readings, self._soak.csv)
        if at_rest:
            print(
                f"round {reading.round}, {reading.seconds / 60:.1f} min: window "
                f"{reading.window_own / 1e6:.1f} MB, engine {reading.engine_own / 1e6:.1f} MB, "
                f"{reading.window_threads} threads, {reading.window_handles} handles, "
                f"{reading.widgets:,} widgets",
                flush=True,
            )
