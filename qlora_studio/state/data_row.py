"""The one row a person looks at: its text, its line in the file, and its tokens as the trainer sees them."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QObject, Signal

from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.conversation import Row
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.reader import Job, Reader

PAGE = 2_000  # tokens that are laid out at once


@dataclass(frozen=True)
class TokenSettings:
    """What a row's tokens depend on beside the row."""

    model: str  # a folder
    data: DataConfig
    method: str


class ChosenRow(QObject):
    """changed: any of the below is another one.

    row:     in the data set, None where none is chosen
    shown:   its text and source, None until they are read
    tokens:  a page of them, None without a model or until they are read
    problem: why its tokens can't be shown
    """

    changed = Signal()

    def __init__(self, reader: Reader, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._reader = reader
        self._dataset = ""
        self._settings: TokenSettings | None = None
        self._start = 0
        self._jobs: dict[str, Job] = {}
        self._stale = False
        self.row: int | None = None
        self.shown: Row | None = None
        self.tokens: reading.TokensShown | None = None
        self.problem: Problem | None = None

    @property
    def has_model(self) -> bool:
        """Whether there is anything that could make tokens of it."""
        return self._settings is not None

    def choose(self, dataset: str, row: int | None) -> None:
        """Another row. What was read of the last one goes when the new one is there."""
        if (dataset, row) == (self._dataset, self.row):
            return
        self._dataset, self.row, self._start = dataset, row, 0
        if row is None:
            self._stale = bool(self._jobs)
            self.shown = self.tokens = self.problem = None
            self.changed.emit()
        else:
            self._ask()

    def see_with(self, settings: TokenSettings | None) -> None:
        """Another model, limit or choice of what is learned."""
        if settings == self._settings:
            return
        self._settings = settings
        if settings is None:
            self.tokens = self.problem = None
        if self.row is not None:
            self._ask()

    def turn_page(self, by: int) -> bool:
        """by: 1 or -1. False where there is no further page of tokens."""
        start = self._start + by * PAGE
        if self.tokens is None or not 0 <= start < self.tokens.total:
            return False
        self._start = start
        self._ask()
        return True

    def _ask(self) -> None:
        """One question at a time: whoever holds an arrow key down waits for the last row, not for each."""
        if self._jobs:
            self._stale = True
            return
        assert self.row is not None
        self._start_job(
            "rows", self._reader.ask(reading.ShowRows, dataset=self._dataset, start=self.row, count=1)
        )
        settings = self._settings
        if settings is not None:
            job = self._reader.ask(
                reading.ShowTokens,
                dataset=self._dataset,
                row=self.row,
                model=settings.model,
                data=settings.data,
                method=settings.method,
                start=self._start,
                count=PAGE,
            )
            self._start_job("tokens", job)

    def _start_job(self, what: str, job: Job) -> None:
        self._jobs[what] = job
        job.answered.connect(lambda answer: self._on_answered(what, answer))
        job.refused.connect(lambda problem: self._on_refused(what, problem))

    def _on_answered(self, what: str, answer: reading.RowsShown | reading.TokensShown) -> None:
        del self._jobs[what]
        if not self._stale:
            if isinstance(answer, reading.TokensShown):
                self.tokens, self.problem = answer, None
            else:
                self.shown = answer.rows[0] if answer.rows else None
                if self._settings is None:
                    self.tokens = self.problem = None
        self._settle()

    def _on_refused(self, what: str, problem: Problem) -> None:
        del self._jobs[what]
        if not self._stale:
            self.problem = problem
            self.tokens = None
        self._settle()

    def _settle(self) -> None:
        if self._jobs:
            return
        if self._stale:
            self._stale = False
            if self.row is not None:
                self._ask()
        else:
            self.changed.emit()
