"""The window as the command opens it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

# Opens it as `qlora-studio` does and tells what is in front and what was loaded for it.
CHILD = """
import sys
from PySide6.QtCore import QTimer
from qlora_studio.ui import window

class Shell(window.Shell):
    def showEvent(self, event):
        super().showEvent(event)
        QTimer.singleShot(1000, self.tell)

    def tell(self):
        print("page", self.page().name)
        print("heavy", *sorted({"torch", "pyarrow", "transformers", "datasets"} & set(sys.modules)))
        print("fits", self.height() <= self.screen().availableSize().height())
        print("notices", *(notice.text for notice in self._app.notices.last))
        self.close()

window.Shell = Shell
sys.exit(window.open_window(page=PAGE))
"""


def test_the_window_opens_on_home_and_closes_again():
    child = _open("None")
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines() == ["page home", "heavy", "fits True", "notices"]


def test_a_page_that_is_not_there_is_said_and_home_opens():
    child = _open("'<b>nowhere</b>'")
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines()[0] == "page home"
    assert "There is no page <b>nowhere</b>." in child.stdout


def _open(page):
    return subprocess.run(
        [sys.executable, "-c", f"PAGE = {page}\n{CHILD}"], capture_output=True, text=True, timeout=60
    )
