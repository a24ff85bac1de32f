"""One window for hours: `python -m tests.soak --minutes 120 --csv soak.csv --picture soak.png`.

The window as the command opens it, offscreen, with its real engine, its readers and the sample model, in a
home of its own. Round after round a run is trained with evaluation, sample replies and checkpoints, stopped
and resumed, evaluated and talked to, and all pages are opened. Memory, threads, handles and widgets are read
every 30 s and at rest after each round. The exit status is 1 if one of them grows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("WAKEPY_FAKE_SUCCESS", "1")

READ_EVERY_S = 30


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"))
    parser.add_argument("--picture", type=Path, help="a PNG")
    parser.add_argument("--drawn-only", action="store_true", help="the picture of a soak that was")
    arguments = parser.parse_args()
    if not arguments.drawn_only:
        with tempfile.TemporaryDirectory() as folder:
            if not soak(arguments.minutes, arguments.csv, Path(folder)):
                return 1
    from tests.soak import meter

    readings = meter.read_csv(arguments.csv)
    if arguments.picture is not None and not arguments.drawn_only:  # in a process that had no window
        drawn = [sys.executable, "-m", "tests.soak", "--drawn-only", "--csv", arguments.csv]
        subprocess.run([*drawn, "--picture", arguments.picture], check=True, stdout=subprocess.DEVNULL)
    elif arguments.picture is not None:
        from tests.soak.picture import draw

        draw(readings, arguments.picture)
        return 0
    found = meter.growths(readings)
    rounds = max((reading.round for reading in readings), default=0)
    print(f"{rounds} rounds in {readings[-1].seconds / 60:.0f} min, {len(readings)} readings")
    for growth in found:
        print(meter.words(growth))
    return 0 if all(growth.flat for growth in found) else 1


def soak(minutes: float, csv: Path, folder: Path) -> bool:
    """Whether it came to its end; what it read by then is in `csv`."""
    from qlora_studio.config import places

    usual = places.sample_model_folder()
    os.environ["QLORA_STUDIO_HOME"] = str(folder / "home")
    os.environ["XDG_DATA_HOME"] = str(folder / "data")

    from PySide6.QtCore import QTimer
    from PySide6.QtGui import QShowEvent

    from qlora_studio.state.app import AppState
    from qlora_studio.ui import window
    from tests.journey import person
    from tests.short_sample import take_sample_model, use_short_sample
    from tests.soak import meter
    from tests.soak.rounds import PROMPT, Rounds

    take_sample_model(usual)
    use_short_sample(checkpoints="every_steps = 2\nevaluate_every_steps = 2", samples=PROMPT)
    person.PATIENCE_S = 900.0
    readings: list[meter.Reading] = []
    whole = False

    class SoakedShell(window.Shell):
        """Goes through rounds until its time is over, then closes."""

        def __init__(self, app: AppState) -> None:
            super().__init__(app)
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
            nonlocal whole
            rounds = Rounds(self._app_state, self, folder, folder / "data" / "Trash")
            try:
                while self._seconds() < minutes * 60:
                    self._round += 1
                    rounds.go(self._round)
                    self._read(at_rest=True)
                whole = True
            finally:
                self._clock.stop()
                self._app_state.engine.release()
                self.close()

        def _seconds(self) -> float:
            return time.monotonic() - self._began

        def _read(self, at_rest: bool) -> None:
            reading = meter.read(self._seconds(), self._round, at_rest, len(readings))
            readings.append(reading)
            meter.write_csv(readings, csv)
            if at_rest:
                print(
                    f"round {reading.round}, {reading.seconds / 60:.1f} min: window "
                    f"{reading.window_own / 1e6:.1f} MB, engine {reading.engine_own / 1e6:.1f} MB, "
                    f"{reading.window_threads} threads, {reading.window_handles} handles, "
                    f"{reading.widgets:,} widgets",
                    flush=True,
                )

    vars(window)["Shell"] = SoakedShell
    window.open_window()
    return whole


if __name__ == "__main__":
    sys.exit(main())
