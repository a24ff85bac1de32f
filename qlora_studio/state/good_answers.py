"""The answers that a person keeps as rows for training: which they are, and how many."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from qlora_studio.config import places
from qlora_studio.errors import StudioError
from qlora_studio.runs.good_answers import (
    GoodAnswer,
    add_good_answer,
    last_texts,
    read_good_answers,
    remove_good_answer,
)
from qlora_studio.state.background import Background
from qlora_studio.state.notices import Notices


class GoodAnswersState(QObject):
    """changed: which are kept. refused: why one could not be kept, or taken out."""

    changed = Signal()
    refused = Signal(str)

    def __init__(self, notices: Notices, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._notices = notices
        self._disk = Background("good-answers", self)
        self._lines: frozenset[bytes] = frozenset()
        self._texts: frozenset[str] = frozenset()
        self.count = 0

    @property
    def path(self) -> Path:
        """The data file; it is there once an answer is kept."""
        return places.good_answers_file()

    def refresh(self) -> None:
        """Reads the file."""
        self._disk.do(partial(read_good_answers, self.path), self._on_lines, self._on_refused)

    def may_have(self, text: str) -> bool:
        """Whether any row ends in this answer: `has` looks at all that was said before it, too."""
        return text in self._texts

    def has(self, answer: GoodAnswer) -> bool:
        """Whether it is kept."""
        return answer.line() in self._lines

    def keep(self, answer: GoodAnswer) -> None:
        """As a row of the file; it can be taken back."""
        self._disk.do(
            partial(add_good_answer, self.path, answer), partial(self._on_kept, answer), self._on_refused
        )

    def take_out(self, answer: GoodAnswer) -> None:
        """Out of the file again."""
        self._disk.do(partial(remove_good_answer, self.path, answer), self._on_taken_out, self._on_refused)

    def wait(self) -> None:
        """What was to be kept is on the disk when this returns."""
        self._disk.wait()

    def _on_kept(self, answer: GoodAnswer, lines: list[bytes]) -> None:
        self._on_lines(lines)
        self._notices.say(
            f"Kept as a training row: {_counted(self.count)}", undo=partial(self.take_out, answer)
        )

    def _on_taken_out(self, lines: list[bytes]) -> None:
        self._on_lines(lines)
        self._notices.say(f"Taken out: {_counted(self.count)} left")

    def _on_lines(self, lines: list[bytes]) -> None:
        self._lines, self.count = frozenset(lines), len(lines)
        self._texts = last_texts(lines)
        self.changed.emit()

    def _on_refused(self, error: StudioError) -> None:
        self.refused.emit(str(error))


def _counted(count: int) -> str:
    return "1 good answer" if count == 1 else f"{count:,} good answers"
