"""A file on its way to rows: how far its reading is, and why it was refused."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, Signal

from qlora_studio.config.run_config import SAMPLE, DataConfig
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.reader import Job, Reader


class DataImport(QObject):
    """changed:  any of the below is another one
    imported: the DataImported of `asked`

    asked:    the last file, and how it was to be read
    problem:  why it was refused
    likely_encoding: of a refused file that isn't UTF-8: what it looks most like
    columns, records: of a refused file, where it has any: for whoever chooses the columns by hand
    """

    changed = Signal()
    imported = Signal(object)

    def __init__(self, reader: Reader, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._reader = reader
        self._job: Job | None = None
        self.asked: DataConfig | None = None
        self.words = ""
        self.share = -1.0  # of the file; below 0: unknown
        self.problem: Problem | None = None
        self.likely_encoding = ""
        self.columns: tuple[str, ...] = ()
        self.records: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether a file is being read now."""
        return self._job is not None

    def read(self, data: DataConfig) -> None:
        """Ends in `imported`, or in `changed` with a problem."""
        self.stop()
        self.asked, self.problem, self.columns, self.records = data, None, (), ()
        self.likely_encoding = ""
        self.words, self.share = f"Reading {file_name(data.path)}", -1.0
        self._job = self._reader.ask(reading.ImportData, data=data)
        self._job.progress.connect(self._on_progress)
        self._job.answered.connect(self._on_answered)
        self._job.refused.connect(self._on_refused)
        self.changed.emit()

    def stop(self) -> None:
        """At once: the process that reads is ended."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
            self.changed.emit()

    def _on_progress(self, progress: reading.Progress) -> None:
        assert self.asked is not None
        self.words = f"Reading {file_name(self.asked.path)}: {progress.words}"
        self.share = progress.done / progress.total if progress.total else -1.0
        self.changed.emit()

    def _on_answered(self, answer: reading.DataImported) -> None:
        self._job = None
        self.imported.emit(answer)
        self.changed.emit()

    def _on_refused(self, problem: Problem) -> None:
        assert self.asked is not None and self._job is not None
        self.problem, self.likely_encoding = problem, self._job.likely_encoding
        self._job = None
        columns = self._reader.ask(reading.ShowColumns, path=self.asked.path, encoding=self.asked.encoding)
        columns.answered.connect(self._on_columns)
        self.changed.emit()

    def _on_columns(self, answer: reading.ColumnsShown) -> None:
        if self.problem is not None:
            self.columns, self.records = answer.columns, answer.records
            self.changed.emit()


def file_name(path: str) -> str:
    """As a title: the bundled data has a name of its own."""
    return "Sample data" if path == SAMPLE else Path(path).name
