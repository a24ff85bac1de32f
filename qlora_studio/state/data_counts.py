"""How long all rows of a data set are in tokens of the chosen model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Signal

from qlora_studio.config.run_config import DataConfig
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.reader import Job, Reader


@dataclass(frozen=True)
class CountedFor:
    """What the lengths depend on; the limit is none of it."""

    dataset: str
    model: str  # a folder, empty where none is chosen
    train_on: str
    method: str


class TokenCounts(QObject):
    """changed: any of the below is another one.

    counted, lengths: None until they are known; lengths: int32 [rows, 2]: tokens, learned tokens
    words:   how far counting is, empty where it doesn't go on
    problem: why these rows can't be counted
    """

    changed = Signal()

    def __init__(self, reader: Reader, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._reader = reader
        self._job: Job | None = None
        self._asked: CountedFor | None = None
        self.counted: reading.TokensCounted | None = None
        self.lengths: NDArray[np.int32] | None = None
        self.words = ""
        self.problem: Problem | None = None

    def count(self, dataset: str, model: str, data: DataConfig, method: str) -> None:
        """Nothing is asked twice."""
        asked = CountedFor(dataset, model, data.train_on, method)
        if asked == self._asked:
            return
        self.give_up()
        self._asked = asked
        self.counted = self.lengths = self.problem = None
        self.words = ""
        if model:
            self.words = "Counting tokens"
            self._job = self._reader.ask(
                reading.CountTokens, dataset=dataset, model=model, data=data, method=method
            )
            self._job.progress.connect(self._on_progress)
            self._job.answered.connect(self._on_counted)
            self._job.refused.connect(self._on_refused)
        self.changed.emit()

    def give_up(self) -> None:
        """Ends a count that still goes on, and forgets that it was asked for."""
        if self._job is not None:
            self._job.cancel()
            self._job = self._asked = None
            self.words = ""

    def tell(self, problem: Problem | None) -> None:
        """Why there is no model to count with."""
        self.problem = problem
        self.changed.emit()

    def _on_progress(self, progress: reading.Progress) -> None:
        self.words = f"{progress.words}: {progress.done:,} of {progress.total:,} rows"
        self.changed.emit()

    def _on_counted(self, answer: reading.TokensCounted) -> None:
        self._job = None
        self.words, self.counted = "", answer
        self.lengths = np.load(answer.lengths.file, mmap_mode="r", allow_pickle=False)
        self.changed.emit()

    def _on_refused(self, problem: Problem) -> None:
        self._job = None
        self.words, self.problem = "", problem
        self.changed.emit()
