"""The longest that the window stands still while a model loads, trains and chats, and while pages are opened.

`python -m tests.benchmarks.window_stalls`, offscreen, on a machine that does nothing else: the window as the
command opens it, with its real engine and reader and the sample model. A timer of 16 ms measures.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QPlainTextEdit

from qlora_studio.config import places
from qlora_studio.ui import window
from qlora_studio.ui.theme import ThemeChoice, theme
from tests.journey import person as journey
from tests.journey.person import Gaps, Person, percentile
from tests.short_sample import take_sample_model

BAR_MS = 100
PAINTED_MS = 250  # after it is shown, the first page is painted
SETTLED_S = 2.0  # meanwhile the pages are loaded beside the window
PAGES = ("models", "data", "train", "runs", "chat", "export", "settings", "home")

SHORT_SAMPLE = """
name = "Sample run"
[model]
path = "sample"
[data]
path = "sample"
seq_len = 256
[lora]
r = 8
[training]
steps = 12
batch_size = 1
gradient_accumulation = 1
learning_rate = 1e-3
[checkpoints]
every_steps = 4
evaluate_every_steps = 4
[[samples]]
prompt = "What is 12 times 7?"
max_tokens = 24
"""


class MeasuredShell(window.Shell):
    """Is walked through once, then closes."""

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        QTimer.singleShot(PAINTED_MS, self.walk)

    def walk(self) -> None:
        person = Person(self)
        measure("after the first frame", lambda: person.waits(SETTLED_S))
        measure("load and train", lambda: train(person))
        measure("chat", lambda: chat(person))
        measure("first visit of each page", lambda: visit(person))
        measure("second visit of each page", lambda: visit(person))
        measure("theme and text size", lambda: change_look(self, person))
        self.close()


def main() -> None:
    """Prints, for each part of the walk, the longest stall and how many ticks there were."""
    journey.PATIENCE_S = 900.0  # a processor without bfloat16 learns slowly
    usual = places.sample_model_folder()
    with tempfile.TemporaryDirectory() as home:
        os.environ["QLORA_STUDIO_HOME"] = home
        take_sample_model(usual)
        preset = places.settings_folder() / "presets" / "sample.toml"
        preset.parent.mkdir(parents=True)
        preset.write_text(SHORT_SAMPLE, "utf-8")
        vars(window)["Shell"] = MeasuredShell
        window.open_window()
    print(f"at most {BAR_MS} ms; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {sys.platform}")


def measure(what: str, walk: Callable[[], None]) -> None:
    """One part of the walk."""
    gaps = Gaps()
    walk()
    gaps.stop()
    worst, own, most = max(gaps.wall_s), max(gaps.own_s), percentile(gaps.wall_s, 0.99)
    print(
        f"{what:<26} longest {worst * 1e3:4.0f} ms ({own * 1e3:.0f} ms of the window's own work), "
        f"99 % within {most * 1e3:.0f} ms, {len(gaps.wall_s):,} ticks",
        flush=True,
    )


def train(person: Person) -> None:
    """From the click to the banner that says that it is done."""
    person.clicks_on("home_start_sample")
    person.waits_until(lambda: "adapter is ready" in person.reads("banner"), "the end of the run")


def chat(person: Person) -> None:
    """Until both replies are written."""
    person.clicks_on("monitor_chat")
    person.writes("chat_max_tokens", "64")
    message = person.waits_for("chat_input", QPlainTextEdit)
    person.waits_until(lambda: bool(message.toPlainText()), "a prompt")
    person.clicks_on("chat_send")
    sides = ("base", "tuned")
    person.waits_until(
        lambda: all("tokens/s" in person.reads(f"chat_figures_0_{side}") for side in sides), "both replies"
    )


def visit(person: Person) -> None:
    """Through the rail, a second each."""
    for name in PAGES:
        person.clicks_on(f"nav_{name}")
        person.waits(1.0)


def change_look(shell: window.Shell, person: Person) -> None:
    """With all pages built, and one with much on it in front."""
    look = theme()
    for page in ("monitor", "train", "data"):
        shell.open_page(page)
        person.waits(1.0)
        for choice, text_size in ((ThemeChoice.DARK, 150), (ThemeChoice.LIGHT, 100)):
            look.set_choice(choice)
            person.waits(1.0)
            look.set_text_size(text_size)
            person.waits(1.0)


if __name__ == "__main__":
    main()
