"""From Enter to the first letter of a reply, and how long a switch of adapters takes, without a card.

    python -m tests.benchmarks.chat_answer

The window, its reader and its engine are real; the adapters' weights are drawn by lot, r = 8 on all linear
layers. Issue 9 allows 50 ms more than the engine itself takes to the first token, and 100 ms a switch.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

QUESTIONS = (
    "What is 2 + 3?",
    "Name a colour.",
    "What is the capital of France?",
    "Say hello.",
    "Why?",
    "And now?",
)
SWITCHES = 40
LONGEST_WAIT_S = 120.0
MAKE = "make"


def main() -> None:
    """Prints each figure on a line of its own."""
    if sys.argv[1:2] == [MAKE]:
        make_runs(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as home:
        os.environ["QLORA_STUDIO_HOME"] = home
        subprocess.run([sys.executable, "-m", "tests.benchmarks.chat_answer", MAKE, home], check=True)
        from_enter_to_first_letter()


def make_runs(home: Path) -> None:
    """Two finished runs of the sample model; and how long the engine's own switch between them takes."""
    import torch

    from qlora_studio.engine.adapters import AdaptedModel
    from qlora_studio.engine.frozen_weights import Storage
    from qlora_studio.engine.loading import load_base
    from qlora_studio.engine.sample_model import make_sample_model
    from tests.engine.tiny import CPU, loaded
    from tests.engine.tuned_run import make_tuned_run

    model = loaded(make_sample_model())
    runs = [make_tuned_run(home / str(number), model, lora__r=8) for number in range(2)]
    folder = home / "runs"
    folder.mkdir(exist_ok=True)
    for number, run in enumerate(runs):
        run.rename(folder / f"run-{number}")
    adapted = AdaptedModel(loaded(load_base(str(model), Storage("nf4", True, torch.float32), CPU)))
    for first in ("read and put in", "switched to again"):
        took = []
        for number in range(2 if first == "read and put in" else SWITCHES):
            begin = time.perf_counter()
            adapted.use(adapted.add_from(folder / f"run-{number % 2}" / "adapter"))
            took.append(time.perf_counter() - begin)
        print(f"adapter {first}: median {_ms(statistics.median(took))}, longest {_ms(max(took))}", flush=True)


def from_enter_to_first_letter() -> None:
    """Of replies by the base and by adapters in turn, once each was there before."""
    from PySide6.QtCore import QEvent, QObject, Qt
    from PySide6.QtTest import QTest
    from PySide6.QtWidgets import QApplication, QLabel, QPlainTextEdit

    from qlora_studio.protocol.events import GenerationFinished
    from qlora_studio.state.app import AppState
    from qlora_studio.ui.shell import Shell

    qt = QApplication([])
    app = AppState()
    shell = Shell(app)
    shell.resize(1440, 900)
    shell.show()
    page = shell.open_page("chat")
    chat = app.chat
    own: list[float] = []
    app.engine.heard.connect(
        lambda event: own.append(event.first_token_seconds) if isinstance(event, GenerationFinished) else None
    )

    def wait_until(done: Callable[[], bool]) -> None:
        end = time.monotonic() + LONGEST_WAIT_S
        while not done():
            assert time.monotonic() < end, app.engine.words
            qt.processEvents()
            time.sleep(0.0005)

    class Painted(QObject):
        """When a reply's label was first painted with letters in it."""

        at = 0.0

        def eventFilter(self, watched: QObject, event: QEvent) -> bool:
            paints = event.type() is QEvent.Type.Paint and isinstance(watched, QLabel)
            if paints and not self.at and watched.objectName().startswith("chat_text_"):
                self.at = time.perf_counter() if watched.text().strip(" ▌") else 0.0
            return False

    try:
        wait_until(lambda: len(chat.choices) == 2)
        chat.sampling = type(chat.sampling)(greedy=True, max_tokens=2)
        box = page.findChild(QPlainTextEdit, "chat_input")
        painted = Painted()
        over: dict[str, list[float]] = {"base": [], "adapter": []}
        for number in range(3 + 2 * len(QUESTIONS)):
            chat.new_chat()
            tuned = (None, *chat.choices)[number % 3]
            chat.choose_tuned(tuned)
            chat.set_side_by_side(False)
            box.setPlainText(QUESTIONS[number % len(QUESTIONS)])
            qt.processEvents()
            qt.installEventFilter(painted)
            painted.at = 0.0
            begin = time.perf_counter()
            QTest.keyClick(box, Qt.Key.Key_Return)
            wait_until(lambda: not chat.busy)
            wait_until(lambda: bool(painted.at))
            qt.removeEventFilter(painted)
            if number >= 3:  # loaded, and each adapter was there before
                over["adapter" if tuned else "base"].append(painted.at - begin - own[-1])
        for who, took in over.items():
            more = f"{_ms(statistics.median(took))} more, at most {_ms(max(took))}, of {len(took)}"
            engine = f"the engine's own {_ms(statistics.median(own[3:]))}"
            print(f"Enter to first letter, {who}: {engine} and {more}")
    finally:
        app.close()


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


if __name__ == "__main__":
    main()
