"""The doctor beside the rows: what it finds arrives while they can be read already."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QObject, Signal

from qlora_studio.config.encodings import Encoding
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.limits import MOST_UNASKED
from qlora_studio.data.report import Finding
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.reader import Job, Reader


@dataclass(frozen=True)
class LookedAt:
    """What the findings depend on. data: how the rows were read, and what is held out of them; test: a file;
    empty: none; encoding: of that file.
    """

    dataset: str
    rows: int
    data: DataConfig
    test: str
    encoding: Encoding


class DataDoctor(QObject):
    """changed: any of the below is another one.

    findings: all there is to say of the rows, None until that is known
    test:     the file whose rows must not be learned; empty: none
    words:    how far it is, empty where it doesn't look now
    share:    of the work in hand; below 0: unknown
    problem:  why it could not look
    likely_encoding: where that is another file that isn't UTF-8: what it looks most like
    beside:   that file: `test`, or the one that is held out
    """

    changed = Signal()

    def __init__(self, reader: Reader, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._reader = reader
        self._job: Job | None = None
        self._asked: LookedAt | None = None
        self._found_for: LookedAt | None = None
        self.findings: tuple[Finding, ...] | None = None
        self.test = ""
        self.test_encoding: Encoding = "auto"
        self.likely_encoding = self.beside = ""
        self.words = ""
        self.share = -1.0
        self.problem: Problem | None = None

    @property
    def knows(self) -> bool:
        """Whether `findings` are of what was asked for last: another test file comes later."""
        return self.findings is not None and self._found_for == self._asked

    @property
    def is_long(self) -> bool:
        """Whether there are so many rows that it takes minutes."""
        return self._asked is not None and self._asked.rows > MOST_UNASKED

    def look(self, dataset: str, rows: int, read: DataConfig, settings: DataConfig) -> None:
        """At these rows, unless there are so many that somebody has to ask. Nothing is asked twice.

        read: how the rows were read; settings: of the next run, which may name other data
        """
        asked = LookedAt(dataset, rows, _what_counts(read, settings), self.test, self.test_encoding)
        if asked == self._asked:
            return
        self._give_up()
        self._asked, self.findings, self.problem = asked, None, None
        if rows <= MOST_UNASKED or asked.test:
            self._ask(asked)
        self.changed.emit()

    def look_now(self) -> None:
        """After it was stopped or refused, and at any number of rows."""
        if self._asked is not None and self._job is None:
            self.problem = None
            self._ask(self._asked)
            self.changed.emit()

    def compare(self, test: str) -> None:
        """test: a file whose rows must not be among these; empty: none any more."""
        if self._asked is not None and test != self.test:
            self._compare(self._asked, test, "auto")

    def read_test_as(self, encoding: Encoding) -> None:
        """Compares with that file again, its letters stored in this way."""
        if self._asked is not None and self.test:
            self._compare(self._asked, self.test, encoding)

    def _compare(self, last: LookedAt, test: str, encoding: Encoding) -> None:
        self.test, self.test_encoding = test, encoding
        self._give_up()
        self._asked = LookedAt(last.dataset, last.rows, last.data, test, encoding)
        self._ask(self._asked)
        self.changed.emit()

    def leave_test(self) -> None:
        """It was chosen for other data."""
        self.test, self.test_encoding = "", "auto"

    def stop(self) -> None:
        """At once: the process that looks is ended."""
        self._give_up()
        self.changed.emit()

    def forget(self) -> None:
        """Other rows are on the screen; a test file stays with the data it was chosen for."""
        self._give_up()
        self._asked = self.findings = self.problem = None
        self.likely_encoding = self.beside = ""

    def _ask(self, asked: LookedAt) -> None:
        self.problem, self.likely_encoding, self.beside = None, "", ""
        self.words, self.share = "Looking for odd rows", -1.0
        self._job = self._reader.ask(
            reading.Diagnose,
            dataset=asked.dataset,
            data=asked.data,
            test=asked.test,
            test_encoding=asked.encoding,
        )
        self._job.progress.connect(self._on_progress)
        self._job.answered.connect(self._on_diagnosed)
        self._job.refused.connect(self._on_refused)

    def _give_up(self) -> None:
        if self._job is not None:
            self._job.cancel()
            self._job = None
            self.words = ""

    def _on_progress(self, progress: reading.Progress) -> None:
        count = f": {progress.done:,} of {progress.total:,}" if progress.total else ""
        self.words = f"{progress.words}{count}"
        self.share = progress.done / progress.total if progress.total else -1.0
        self.changed.emit()

    def _on_diagnosed(self, answer: reading.Diagnosed) -> None:
        self._job = None
        self.words, self.findings, self._found_for = "", answer.findings, self._asked
        self.changed.emit()

    def _on_refused(self, problem: Problem) -> None:
        assert self._job is not None
        self.likely_encoding, self.beside = self._job.likely_encoding, self._job.beside
        self._job = None
        self.words, self.problem = "", problem
        self.changed.emit()


def _what_counts(read: DataConfig, settings: DataConfig) -> DataConfig:
    """The file held out, and how it and a test file are read: like the rows."""
    return DataConfig(
        format=read.format,
        encoding=read.encoding,
        alternatives=read.alternatives,
        map=read.map,
        validation=settings.validation if isinstance(settings.validation, str) else 0.0,
        validation_encoding=settings.validation_encoding,
    )
