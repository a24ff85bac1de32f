"""How long 2.5 million chats (2.7 GB) take to be given up: `python -m tests.benchmarks.cancel_import`.

The window's import is stopped, and the terminal's interrupted as Ctrl+C does, at several moments of its way.
Measured is until the reader process has ended and what it had written is gone. `--folder` keeps the file.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import psutil
from PySide6.QtCore import QCoreApplication, QEventLoop, QTimer

from qlora_studio.config.run_config import DataConfig
from qlora_studio.state.data_import import DataImport
from qlora_studio.state.reader import Reader
from tests.benchmarks.import_data import write_chats

ROWS = 2_500_000  # a million are read in 4.2 s of a calm machine: the last moment was too late
MOMENTS_S = (0.2, 0.5, 1.0, 2.0, 4.0, 7.0)  # after the import was asked for: starting, looking, reading
BAR_S = 2.0
LOOK_EVERY_S = 0.02
STOPPED = 130


@dataclass(frozen=True)
class GivenUp:
    """words: how far it was; free_s: until a person can go on; gone_s: until no process is left."""

    words: str
    free_s: float
    gone_s: float
    left_bytes: int
    status: int | None = None  # of the terminal's command


def main() -> None:
    """Prints a line for each moment. Exits with 1 where one misses the bar."""
    arguments = _arguments()
    app = QCoreApplication([])  # owns the readers
    missed = False
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        file = Path(arguments.folder or scratch) / f"chats-{arguments.rows}.jsonl"
        if not file.exists():
            write_chats(file, arguments.rows)
        print(f"{arguments.rows:,} rows, {file.stat().st_size / 1e9:.2f} GB, {os.cpu_count()} cores")
        for name, give_up in (("window", in_window), ("terminal", in_terminal)):
            for after_s in MOMENTS_S:
                home = Path(tempfile.mkdtemp(dir=scratch))
                os.environ["QLORA_STUDIO_HOME"] = str(home)
                load = os.getloadavg()[0]
                found = give_up(file, home, after_s)
                missed |= _misses(found)
                print(f"{name:>8} after {after_s:4.2f} s: {_line(found)}, load before {load:.1f}", flush=True)
    del app
    raise SystemExit(missed)


def in_window(file: Path, home: Path, after_s: float) -> GivenUp:
    """As the button [Stop] of the Data page does."""
    reader = Reader(QCoreApplication.instance())
    data = DataImport(reader, reader)
    ended: list[float] = []
    data.imported.connect(lambda _: ended.append(time.perf_counter()))
    data.read(DataConfig(path=str(file)))
    loop = QEventLoop()
    QTimer.singleShot(round(after_s * 1000), loop.quit)
    loop.exec()
    assert not ended, "it was read before it could be stopped: give it more --rows"
    children, words = _readers(os.getpid()), data.words
    start = time.perf_counter()
    data.stop()
    assert not data.busy
    free_s = time.perf_counter() - start
    gone_s = _until(start, lambda: not _alive(children))
    reader.close()
    return GivenUp(words, free_s, gone_s, _left_bytes(home))


def in_terminal(file: Path, home: Path, after_s: float) -> GivenUp:
    """Ctrl+C reaches all processes of the terminal's foreground group."""
    command = subprocess.Popen(
        [sys.executable, "-m", "qlora_studio", "data", str(file)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not (children := _readers(command.pid)):
        time.sleep(LOOK_EVERY_S)
    time.sleep(after_s)
    assert command.poll() is None, "it was read before it could be stopped: give it more --rows"
    start = time.perf_counter()
    os.killpg(command.pid, signal.SIGINT)
    _, said = command.communicate()
    free_s = time.perf_counter() - start
    gone_s = _until(start, lambda: not _alive(children))
    words = said.decode().strip().rpartition("\n")[2].rpartition("\r")[2]
    return GivenUp(words, free_s, gone_s, _left_bytes(home), command.returncode)


def _readers(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return found


def _alive(processes: list[psutil.Process]) -> bool:
    return any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def _until(start: float, true: Callable[[], bool]) -> float:
    while not true():
        time.sleep(LOOK_EVERY_S)
    return time.perf_counter() - start


def _left_bytes(home: Path) -> int:
    return sum(file.stat().st_size for file in home.rglob(".importing-*/*") if file.is_file())


def _misses(found: GivenUp) -> bool:
    return (
        max(found.free_s, found.gone_s) > BAR_S or found.left_bytes > 0 or found.status not in (None, STOPPED)
    )


def _line(found: GivenUp) -> str:
    status = "" if found.status is None else f", exit status {found.status}"
    kept = f", {found.left_bytes / 1e6:.0f} MB left behind"
    return (
        f"{found.free_s:.2f} s, process gone after {found.gone_s:.2f} s{kept}{status}, said {found.words!r}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the file is made, and kept")
    parser.add_argument("--rows", type=int, default=ROWS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
