"""What a reply of 9,900 characters costs the window while it streams, 200 tokens a second.

    python -m tests.benchmarks.chat_stream

Time of the process, taking turns. 30 % of a core are what issue 9 allows, 100 ms the longest stall.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtWidgets import QApplication, QVBoxLayout, QWidget

from qlora_studio.ui.pages.chat_text import ReplyText
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import PlainLabel

ROUNDS = 3
STEP = 40  # characters: ten tokens
EVERY_S = 0.05
_WORDS = "Words of a reply that is long. " * 20
_CODE = "x = 1  # a line\n" * 20
PARAGRAPHS = "**Words** of a reply that is `long` and *has* a list:\n\n- one thing\n- and another\n\n" * 130
REPLY = f"{_WORDS}\n\n```python\n{_CODE}```\n\n" * 10


def main() -> None:
    """Prints a line for each way and round."""
    application = QApplication.instance() or QApplication([])
    assert isinstance(application, QApplication)
    theme()
    for _ in range(ROUNDS):
        label = PlainLabel("", "chat", wrap=True)
        _stream("as one label", application, label, label.setText)
        parts = ReplyText(name="reply")
        _stream("in parts", application, parts, lambda text, parts=parts: parts.show_text(text, written=True))
        formatted = ReplyText(name="formatted")
        _stream(
            "in short formatted paragraphs",
            application,
            formatted,
            lambda text, parts=formatted: parts.show_text(text, written=True),
            PARAGRAPHS,
        )


def _stream(name, application, widget, show, reply=REPLY) -> None:  # type: ignore[no-untyped-def]
    host = QWidget()
    QVBoxLayout(host).addWidget(widget)
    host.resize(480, 800)
    host.show()
    application.processEvents()
    took = []
    for end in range(STEP, 9_900, STEP):
        begin = time.process_time()
        show(reply[:end])
        application.processEvents()
        took.append(time.process_time() - begin)
    mean = sum(took) / len(took)
    share = f"{mean / EVERY_S:.0%} of a core"
    print(f"{name}: {mean * 1000:.1f} ms an update, {share}, worst {max(took) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
