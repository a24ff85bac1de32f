"""Before there are rows: where to drop a file, what was imported before, and how far reading is."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from qlora_studio.protocol.events import Problem
from qlora_studio.ui.pages.data_encoding import HINT, EncodingPick
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    EmptyState,
    IconLabel,
    Meter,
    PlainLabel,
    SecondaryButton,
    empty_layout,
)
from qlora_studio.ui.widgets.columns import Columns
from qlora_studio.ui.widgets.flow import Flow
from qlora_studio.ui.widgets.rows import RowButton
from qlora_studio.ui.widgets.text_size import at_text_size

RECENT_SHOWN = 6
EXAMPLES = (
    (
        "Chats (messages, ShareGPT)",
        '{"messages": [\n  {"role": "user", "content": "Is the battery covered?"},\n'
        '  {"role": "assistant", "content": "Yes, for two years."}]}',
    ),
    (
        "Question and answer, prompt and completion",
        '{"question": "What is 6 times 7?",\n "answer": "6 times 7 is 42."}\nor CSV: a column for each',
    ),
    (
        "Instructions (Alpaca)",
        '{"instruction": "Translate to French",\n "input": "Good morning",\n "output": "Bonjour"}',
    ),
    (
        "Plain text",
        "A .txt file: blank lines part the rows,\nor a column with text.\nEvery token is learned.",
    ),
)


class StartArea(QWidget):
    """The page before the first import, or where a file could not be read.

    chosen: the path of a file imported before
    """

    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.choose_file = SecondaryButton("Import a file", "file-plus", name="data_import_first")
        self.use_sample = SecondaryButton("Use the sample data", "sparkles", name="data_use_sample")
        self.mend_columns = SecondaryButton("Choose the columns…", "columns-3", name="data_mend_columns")
        self.mend_columns.hide()
        self.encoding = EncodingPick()
        self.encoding.hide()
        self._empty = EmptyState(
            "file-input",
            "Drop a file here",
            "JSONL, JSON, CSV, Parquet, Arrow or text, also compressed, or a folder of them, in any of the "
            "shapes below. Nothing leaves this machine.",
            name="data_empty",
        )
        self._problem = EmptyState("circle-alert", "", name="data_problem")
        self._drop = Card(name="data_drop")
        self._recent = Card("Imported before", name="data_recent")
        self._files = QVBoxLayout()
        self._files.setSpacing(0)
        self._build()
        self.show_empty()

    def show_empty(self) -> None:
        """Nothing was imported yet."""
        self.mend_columns.hide()
        self.encoding.hide()
        self.encoding.propose("")  # the next file may look the same, and is asked about anew
        self._empty.show()
        self._problem.hide()

    def show_problem(self, name: str, problem: Problem, *, mendable: bool, encoding: str) -> None:
        """One paragraph: what is wrong, where, what to do.

        mendable: it has columns to choose from
        encoding: the likely one of a file that isn't UTF-8; else empty
        """
        self.mend_columns.setVisible(mendable)
        self.encoding.setVisible(bool(encoding))
        self.encoding.propose(encoding)
        hint = HINT if encoding else problem.hint
        self._empty.hide()
        self._problem.show()
        self._problem.set_words(f"{name} could not be read", f"{problem.message} {hint}".strip())

    def show_recent(self, paths: list[str]) -> None:
        """Newest first."""
        empty_layout(self._files)
        for number, path in enumerate(paths[:RECENT_SHOWN]):
            row = RowButton(
                "file-text", Path(path).name, str(Path(path).parent)[-60:], name=f"data_recent_{number}"
            )
            row.clicked.connect(lambda _, path=path: self.chosen.emit(path))
            self._files.addWidget(row)
        self._recent.setVisible(bool(paths))

    def _build(self) -> None:
        buttons = Flow(gap=8, line_gap=8, centred=True)
        for button in (self.mend_columns, self.encoding, self.choose_file, self.use_sample):
            buttons.addWidget(button)
        self._drop.body.addStretch()
        self._drop.body.addWidget(self._empty)
        self._drop.body.addWidget(self._problem)
        self._drop.body.addLayout(buttons)
        self._drop.body.addStretch()
        at_text_size(self._drop, self._drop.setMinimumHeight, 220)
        self._recent.body.addLayout(self._files)
        examples = Card("What a file may look like", name="data_examples")
        side_by_side = Columns(most=2, least=300, gap=16, line_gap=16)
        for title, text in EXAMPLES:
            example = QWidget()
            column = QVBoxLayout(example)
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(theme().px(4))
            column.addWidget(PlainLabel(title, "label", wrap=True))
            column.addWidget(PlainLabel(text, "mono", wrap=True))
            column.addStretch()
            side_by_side.addWidget(example)
        examples.body.addLayout(side_by_side)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(12))
        for card in (self._drop, self._recent, examples):
            layout.addWidget(card)
        layout.addStretch(1)


class ReadingStrip(Card):
    """How far the reading is, and the way to stop it."""

    def __init__(self) -> None:
        super().__init__(name="data_reading")
        self.setAccessibleName("Reading the file")
        self._words = PlainLabel("", name="data_reading_words")
        self._bar = Meter(name="data_reading_bar", label="Share of the file that is read")
        self.stop = SecondaryButton("Stop", "square", small=True, name="data_stop")
        row = QHBoxLayout()
        row.setSpacing(theme().px(12))
        row.addWidget(IconLabel("hourglass", "accent"))
        row.addWidget(self._words)
        row.addWidget(self._bar, 1)
        row.addWidget(self.stop)
        self.body.addLayout(row)
        self.keep_snug()

    def show_progress(self, words: str, share: float) -> None:
        """share: below 0 where the length isn't known."""
        self._words.setText(words)
        self._bar.setVisible(share >= 0)
        self._bar.set_share(share)
