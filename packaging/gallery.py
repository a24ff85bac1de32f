"""Takes the pictures of docs/screenshots: every page in the real window, with runs that were really trained.

`make gallery`. The runs are kept in the folder for temporary files, so a second gallery takes seconds.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "screenshots"
HOME = Path(tempfile.gettempdir()) / "qlora-studio-gallery"
os.environ["QLORA_STUDIO_HOME"] = str(HOME)
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QCoreApplication, QEvent, QEventLoop  # noqa: E402
from PySide6.QtWidgets import QAbstractButton, QApplication, QSpinBox, QWidget  # noqa: E402

from qlora_studio.config.presets import sample_preset  # noqa: E402
from qlora_studio.config.run_config import GENERAL, SAMPLE  # noqa: E402
from qlora_studio.config.toml_file import with_changes  # noqa: E402
from qlora_studio.runs.history import list_runs  # noqa: E402
from qlora_studio.state.app import AppState  # noqa: E402
from qlora_studio.ui.shell import Shell  # noqa: E402
from qlora_studio.ui.theme import ThemeChoice, keep_numbers_plain, theme  # noqa: E402

SIZE = (1440, 900)
THEMES = {"light": ThemeChoice.LIGHT, "dark": ThemeChoice.DARK}
SETTLE_S = 0.6  # charts repaint ten times a second, chips fade for 0.12 s
MOST_BYTES = 200_000  # of a picture
LONG_S = 3600.0  # for a run on a busy machine

# The sample run, and others to compare it with: name -> what differs.
RUNS: dict[str, dict[str, object]] = {
    "sample-r4": {"lora.r": 4, "training.steps": 20, "checkpoints.every_steps": 10},
    "sample-lr3e-4": {"training.learning_rate": 3e-4, "training.steps": 20, "checkpoints.every_steps": 10},
    "sample-run": {"checkpoints.evaluate_every_steps": 10, "checkpoints.every_steps": 10},
}


def main() -> int:
    """The exit status."""
    qt = QApplication(sys.argv[:1])
    keep_numbers_plain()
    app = AppState()
    shell = Shell(app)
    shell.resize(*SIZE)
    shell.show()
    try:
        for name, changes in RUNS.items():
            train(app, shell, name, changes)
        PICTURES.mkdir(parents=True, exist_ok=True)
        for page, state, show in states(app, shell):
            show()
            for word, choice in THEMES.items():
                theme().set_choice(choice)
                take(shell, PICTURES / f"{page}-{state}-{word}-100.png")
    finally:
        app.close()
        qt.quit()
    return 0


def train(app: AppState, shell: Shell, name: str, changes: dict[str, object]) -> None:
    """Unless it was trained for an earlier gallery."""
    if finished(app, name) is not None:
        return
    print(f"Training {name}")
    app.launcher.start(with_changes(sample_preset().config, changes), name)
    shell.open_page("monitor")
    wait_until(lambda: not app.launcher.busy and not app.engine.training, f"{name} to finish")
    if finished(app, name) is None:
        raise SystemExit(f"{name} did not finish: {app.monitor.problem or app.engine.words}")


def finished(app: AppState, name: str) -> Path | None:
    """The folder of the finished run of that name."""
    runs = list_runs(app.preferences.runs_folder)
    return next((run.folder for run in runs if run.name == name and run.state == "finished"), None)


def states(app: AppState, shell: Shell) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Page, its state in a word, and what brings it to the front."""
    run = finished(app, "sample-run")
    assert run is not None
    preset = sample_preset()
    app.draft.preset = preset
    app.draft.replace(preset.config)

    def home() -> None:
        shell.open_page("home")
        wait_until(lambda: shown(shell, "home_continue"), "the list of runs")

    def models() -> None:
        shell.open_page("models")
        app.models.choose(SAMPLE)
        wait_until(
            lambda: (entry := app.models.entry()) is not None and entry.report is not None, "the check"
        )

    def data() -> None:
        shell.open_page("data", SAMPLE)
        wait_until(lambda: app.data.counts.counted is not None, "the rows to be counted")
        wait_until(lambda: app.data.row.tokens is not None, "the tokens of a row")

    def train_simple() -> None:
        shell.open_page("train")
        wait_until(lambda: app.train.promise is not None and app.train.lengths is not None, "the promise")

    def train_advanced() -> None:
        train_simple()
        press(shell, "train_mode_advanced")

    def monitor() -> None:
        shell.open_page("monitor", run)
        wait_until(lambda: not app.monitor.loading and len(app.monitor.points) > 0, "the curves")

    def monitor_evaluated() -> None:
        monitor()
        wait(SETTLE_S)  # evaluations of an earlier gallery are read beside the window
        if not app.evaluation.found:
            app.evaluation.start(GENERAL)
            wait_until(
                lambda: bool(app.evaluation.found) or app.evaluation.problem is not None, "the answers"
            )
        press(shell, "monitor_evaluate")

    def runs() -> None:
        shell.open_page("runs")
        wait_until(lambda: app.runs.loaded, "the list of runs")
        for row in range(len(app.runs.table.runs)):
            if app.runs.table.runs[row].folder not in app.runs.table.chosen:
                app.runs.table.toggle(row)
        wait_until(lambda: all(item.points is not None for item in app.runs.compared()), "the curves")

    def chat() -> None:
        shell.open_page("chat", run)
        wait_until(lambda: app.chat.tuned is not None, "the adapter")
        press(shell, "chat_greedy")
        longest = shell.findChild(QSpinBox, "chat_max_tokens")
        assert isinstance(longest, QSpinBox)
        longest.setValue(120)
        press(shell, "chat_send")  # the run's own prompt is typed already
        wait_until(lambda: bool(app.chat.turns) and not app.chat.busy, "both replies")

    def export() -> None:
        shell.open_page("export", run)
        wait_until(lambda: app.export.source is not None, "the adapter")

    yield "home", "continue", home
    yield "models", "checked", models
    yield "data", "tokens", data
    yield "train", "simple", train_simple
    yield "train", "advanced", train_advanced
    yield "monitor", "finished", monitor
    yield "monitor", "evaluated", monitor_evaluated
    yield "runs", "compared", runs
    yield "chat", "replies", chat
    yield "export", "ready", export


def take(shell: Shell, file: Path) -> None:
    """Once everything is painted."""
    wait(SETTLE_S)
    shell.grab().save(str(file), quality=0)  # 0: as small as it gets
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(
            f"{file.name} has {size:,} bytes; at most {MOST_BYTES:,} are kept in the repository."
        )
    print(f"{file.relative_to(ROOT)}  {size / 1000:.0f} kB")


def press(shell: Shell, name: str) -> None:
    """As a click does."""
    button = shell.findChild(QAbstractButton, name)
    assert isinstance(button, QAbstractButton), name
    button.click()


def shown(shell: Shell, name: str) -> bool:
    """Whether this can be seen."""
    widget = shell.findChild(QWidget, name)
    return isinstance(widget, QWidget) and widget.isVisible()


def wait_until(done: Callable[[], bool], what: str) -> None:
    """The window goes on meanwhile."""
    end = time.monotonic() + LONG_S
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"Waited {LONG_S:,.0f} s for {what}.")
        wait(0.05)


def wait(seconds: float) -> None:
    """The window goes on meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QCoreApplication.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 20)
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
