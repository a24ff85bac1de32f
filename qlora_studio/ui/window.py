"""Opens the window and keeps it until it is closed."""

from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from qlora_studio import __version__
from qlora_studio.plain_text import visible_line
from qlora_studio.state.app import AppState
from qlora_studio.state.awake import KeepAwake
from qlora_studio.ui.look import follow_preferences
from qlora_studio.ui.shell import Shell
from qlora_studio.ui.theme import keep_numbers_plain
from qlora_studio.ui.widgets import WheelFilter

CHARTS_AFTER_MS = 300  # the first page is painted by then
NOT_AWAKE = "This desktop can't be kept awake: if it sleeps, the run waits until it wakes."


def open_window(page: str | None = None, run: str | None = None) -> int:
    """The exit status of the application. page: a page's name; run: the folder of a run to look at."""
    qt = QApplication(sys.argv[:1])
    qt.setApplicationName("QLoRA Studio")
    qt.setApplicationVersion(__version__)
    qt.setDesktopFileName("qlora-studio")
    keep_numbers_plain()
    wheel = WheelFilter(qt)
    qt.installEventFilter(wheel)
    app = AppState()
    follow_preferences(app.preferences)
    awake = KeepAwake(app.engine, app.preferences, app)
    awake.refused.connect(lambda: app.notices.say(NOT_AWAKE, "warn"))
    shell = Shell(app)
    shell.show()
    _open_first(shell, app, page, run)
    charts = threading.Thread(target=_load_charts, name="load-charts", daemon=True)
    QTimer.singleShot(CHARTS_AFTER_MS, charts.start)
    status = qt.exec()
    if charts.is_alive():
        charts.join()
    return status


def _load_charts() -> None:
    """Before the first page with a chart asks: on the GUI's thread it would hold the window for 200 ms."""
    importlib.import_module("pyqtgraph")


def _open_first(shell: Shell, app: AppState, page: str | None, run: str | None) -> None:
    if run is not None:
        shell.open_page("monitor", Path(run).absolute())
    elif page is None or page in shell.page_names():
        shell.open_page(page or "home")
    else:
        shell.open_page("home")
        app.notices.say(
            f"There is no page {visible_line(page, 40)}. Pages: {', '.join(shell.page_names())}.", "warn"
        )
