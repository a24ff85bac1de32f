"""A run of a million steps in the Monitor: how long it takes to open, and how smoothly it moves.

`python -m tests.benchmarks.monitor_million`, offscreen: painting into memory, without a screen's help.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QEventLoop, QObject, QTimer
from PySide6.QtWidgets import QApplication

from qlora_studio.config.run_config import RunConfig
from qlora_studio.runs.folder import create_run
from qlora_studio.runs.metrics import METRICS_FILE
from qlora_studio.runs.run_record import Prepared, RunRecord
from qlora_studio.runs.run_state import RunState, write_state
from qlora_studio.state.app import AppState
from qlora_studio.ui.pages.monitor import MonitorPage
from qlora_studio.ui.shell import Shell
from qlora_studio.ui.theme import keep_numbers_plain
from tests.benchmarks.read_metrics import STEPS, lines_of_step

BAR_OPEN_S = 2.0
BAR_FRAMES = 30.0
BAR_STALL_MS = 100.0
PANNED_S = 4.0
TICK_MS = 16


def main() -> None:
    """Prints seconds, frames a second and the longest the window didn't answer."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["QLORA_STUDIO_HOME"] = home
        run = make_run(Path(home) / "runs")
        application = QApplication([])
        keep_numbers_plain()
        app = AppState()
        window = Shell(app)
        window.show()
        page = window.open_page("monitor", None)  # built before: what is measured is the run
        assert isinstance(page, MonitorPage)
        application.processEvents()
        stalls = Stalls()
        drawn, whole = seconds_to_open(window, page, run)
        report("open, its course drawn", f"{drawn:.2f} s", f"at most {BAR_OPEN_S:.0f}", drawn <= BAR_OPEN_S)
        report("open, every step read", f"{whole:.2f} s", f"at most {BAR_OPEN_S:.0f}", whole <= BAR_OPEN_S)
        report_stall("while opening", stalls)
        for share, words in ((1.0, "all steps"), (0.5, "half"), (0.01, "a hundredth")):
            rate, cpu_ms = frames_a_second(page, share)
            found = f"{rate:.0f} frames/s, {cpu_ms:.0f} ms of processor a frame"
            report(f"pan, {words} in sight", found, f"at least {BAR_FRAMES:.0f}", rate >= BAR_FRAMES)
        report_stall("while panning", stalls)
        app.close()


def make_run(runs_dir: Path) -> Path:
    """A finished run folder with a million steps."""
    promise = {"weights": 2**34}
    prepared = Prepared(steps=STEPS)
    record = RunRecord(
        name="million", created=1.8e9, config=RunConfig(), prepared=prepared, promise_bytes=promise
    )
    folder = create_run(runs_dir, record)
    with (folder / METRICS_FILE).open("wb") as metrics:
        metrics.writelines(map(lines_of_step, range(1, STEPS + 1)))
    write_state(folder, RunState(state="finished", step=STEPS, total_steps=STEPS))
    return folder


def seconds_to_open(window: Shell, page: MonitorPage, run: Path) -> tuple[float, float]:
    """From the click to the run's course on the screen, and to every step of it. Prints what it took of the
    processor.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    window.open_page("monitor", run)
    drawn = seconds_until_painted(window, page, 1, start)
    whole = seconds_until_painted(window, page, STEPS, start)
    print(f"open: {time.process_time() - cpu_start:.2f} s of processor")
    return drawn, whole


def seconds_until_painted(window: Shell, page: MonitorPage, points: int, start: float) -> float:
    """At least so many points."""
    loop = QEventLoop()
    connection = page.stretch.taken.connect(lambda taken: loop.quit() if len(taken) >= points else None)
    loop.exec()
    page.stretch.taken.disconnect(connection)
    QApplication.processEvents()
    window.grab()
    return time.perf_counter() - start


def frames_a_second(page: MonitorPage, share: float) -> tuple[float, float]:
    """All charts moved a little and painted, again and again; and the processor time a frame took, in ms."""
    stretch = page.stretch
    stretch.show_all()
    stretch.show(0, share * STEPS)
    QApplication.processEvents()
    frames, forth = 0, 1
    start, cpu_start = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < PANNED_S:
        if share == 1.0:  # nowhere to pan to: zoom a little in and out
            stretch.zoom(0.98 if forth > 0 else 1.02, STEPS / 2)
            forth = -forth
        else:
            if stretch.last >= STEPS or stretch.first < 0:
                forth = -forth
            stretch.shift(forth * share * STEPS * 0.01)
        QApplication.processEvents()
        frames += 1
    return frames / (time.perf_counter() - start), (time.process_time() - cpu_start) / frames * 1e3


class Stalls(QObject):
    """The longest gap between two ticks of a timer."""

    def __init__(self) -> None:
        super().__init__()
        self._timer = QTimer(self, interval=TICK_MS)
        self._timer.timeout.connect(self._on_tick)
        self._timer.start()
        self._longest_ms, self._last = 0.0, time.perf_counter()

    def reset(self) -> float:
        """The longest since the last reset, in ms."""
        longest, self._longest_ms, self._last = self._longest_ms, 0.0, time.perf_counter()
        return longest

    def _on_tick(self) -> None:
        now = time.perf_counter()
        self._longest_ms = max(self._longest_ms, (now - self._last) * 1e3 - TICK_MS)
        self._last = now


def report_stall(when: str, stalls: Stalls) -> None:
    longest = stalls.reset()
    report(
        f"longest stall {when}", f"{longest:.0f} ms", f"at most {BAR_STALL_MS:.0f}", longest <= BAR_STALL_MS
    )


def report(what: str, found: str, bar: str, good: bool) -> None:
    print(f"{what}: {found} ({bar}){'' if good else '  MISSED'}")


if __name__ == "__main__":
    main()
