"""Opens the window and keeps it until it is closed."""

from __future__ import annotations

import gc
import importlib
import sys
from pathlib import Path

from PySide6.QtCore import Qt, QThread, QTimer
from PySide6.QtWidgets import QApplication

from qlora_studio import __version__
from qlora_studio.plain_text import visible_line
from qlora_studio.state.app import AppState
from qlora_studio.state.awake import KeepAwake
from qlora_studio.ui.garbage import Collector
from qlora_studio.ui.look import follow_preferences
from qlora_studio.ui.pages import page_modules
from qlora_studio.ui.shell import Shell
from qlora_studio.ui.theme import keep_numbers_plain

PAGES_AFTER_MS = 300  # the first page is painted by then
NOT_AWAKE = "This desktop can't be kept awake: if it sleeps, the run waits until it wakes."


def open_window(page: str | None = None, run: str | None = None) -> int:
    """The exit status of the application. page: a page's name; run: the folder of a run to look at."""
    qt = QApplication(sys.argv[:1])
    qt.setApplicationName("QLoRA Studio")
    qt.setApplicationVersion(__version__)
    qt.setDesktopFileName("qlora-studio")
    keep_numbers_plain()
    gc.disable()  # until all is loaded
    app = AppState()
    follow_preferences(app.preferences)
    awake = KeepAwake(app.engine, app.preferences, app)
    awake.refused.connect(lambda: app.notices.say(NOT_AWAKE, "warn"))
    shell = Shell(app)
    # Not every desktop keeps a window inside its screen, and a remembered one may be of a larger screen.
    shell.resize(shell.size().boundedTo(shell.screen().availableSize()))
    shell.show()
    _open_first(shell, app, page, run)
    loader = PageLoader()
    loader.finished.connect(shell.build_ahead)
    shell.ahead.finished.connect(_keep_what_is_loaded, Qt.ConnectionType.SingleShotConnection)
    QTimer.singleShot(PAGES_AFTER_MS, loader.start)
    status = qt.exec()
    loader.wait()
    return status


def _keep_what_is_loaded() -> None:
    """What stays to the end isn't looked through for garbage again and again: that would hold the window."""
    gc.freeze()
    Collector(QApplication.instance())  # type: ignore[arg-type]  # there is one: it runs


class PageLoader(QThread):
    """Loads the pages' modules before a first visit needs them: there it would hold the window for 300 ms."""

    def run(self) -> None:
        load_pages()


def load_pages() -> None:
    """All that pages import, and what that imports at its first use."""
    for module in ("pyqtgraph", "psutil", "numpy.ma", *page_modules()):  # numpy.ma: at the first median
        importlib.import_module(module)


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
