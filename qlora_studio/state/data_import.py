"""A file, or several for a mixture, on the way to rows: how far reading is, and why one was refused."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from qlora_studio.config.run_config import DataConfig, read_alone
from qlora_studio.data.report import ImportReport
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.data_name import file_name
from qlora_studio.state.reader import Job, Reader

OF_A_FIX = "Undo the fix that leaves its rows out, then compare with the file again and choose its encoding."


class DataImport(QObject):
    """The data sets of a mixture are read one after the other, then mixed: so it is known which one of
    them was refused, and how each was read.

    changed:  any of the below is another one
    imported: the DataImported of `asked`

    asked:    the last data, and how it was to be read
    reports:  of a mixture: what came of each data set by itself
    problem:  why it was refused
    refused:  the place in the mixture of what was refused; None: all of it
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
        self.reports: tuple[ImportReport, ...] = ()
        self.words = ""
        self.share = -1.0  # of the file; below 0: unknown
        self.problem: Problem | None = None
        self.refused: int | None = None
        self.likely_encoding = ""
        self.columns: tuple[str, ...] = ()
        self.records: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether a file is being read now."""
        return self._job is not None

    @property
    def refused_file(self) -> DataConfig | None:
        """The one file that was refused, and how it was to be read; None where it was the mixture itself."""
        if self.asked is None or self.problem is None:
            return None
        if not self.asked.mix:
            return self.asked
        return None if self.refused is None else read_alone(self.asked.mix[self.refused])

    def read(self, data: DataConfig) -> None:
        """Ends in `imported`, or in `changed` with a problem."""
        self.stop()
        self.rests_on(data)
        self._ask_next()
        self.changed.emit()

    def rests_on(self, data: DataConfig) -> None:
        """From now on this is the last data; what was wrong with another is forgotten."""
        self.asked, self.reports = data, ()
        self.problem = self.refused = None
        self.columns, self.records, self.likely_encoding = (), (), ""

    def stop(self) -> None:
        """At once: the process that reads is ended."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
            self.changed.emit()

    def _ask_next(self) -> None:
        """The next data set of a mixture; once all are read, the mixture."""
        assert self.asked is not None
        data = self.asked
        if len(self.reports) < len(data.mix):
            data = read_alone(data.mix[len(self.reports)])
        self.words, self.share = self._what_is_read(), -1.0
        self._job = self._reader.ask(reading.ImportData, data=data)
        self._job.progress.connect(self._on_progress)
        self._job.answered.connect(self._on_answered)
        self._job.refused.connect(self._on_refused)

    @property
    def _mixes(self) -> bool:
        """Whether all data sets of a mixture are read, and are put together now."""
        return self.asked is not None and 0 < len(self.asked.mix) == len(self.reports)

    def _what_is_read(self) -> str:
        assert self.asked is not None
        mix, read = self.asked.mix, len(self.reports)
        if self._mixes:
            return f"Mixing {len(mix):,} data sets"
        if mix:
            return f"Reading {file_name(mix[read].path)}, {read + 1:,} of {len(mix):,}"
        return f"Reading {file_name(self.asked.path)}"

    def _on_progress(self, progress: reading.Progress) -> None:
        self.words = self._what_is_read() + ("" if self._mixes else f": {progress.words}")
        self.share = progress.done / progress.total if progress.total else -1.0
        self.changed.emit()

    def _on_answered(self, answer: reading.DataImported) -> None:
        assert self.asked is not None
        if len(self.reports) < len(self.asked.mix):
            self.reports += (answer.report,)
            self._ask_next()
        else:
            self._job = None
            self.imported.emit(answer)
        self.changed.emit()

    def _on_refused(self, problem: Problem) -> None:
        assert self.asked is not None and self._job is not None
        if self._job.beside:  # of a fix that names it
            self.problem = Problem(problem.message, OF_A_FIX)
        else:
            self.problem, self.likely_encoding = problem, self._job.likely_encoding
        self.refused = len(self.reports) if len(self.reports) < len(self.asked.mix) else None
        self._job = None
        file = self.refused_file
        if file is not None:
            columns = self._reader.ask(reading.ShowColumns, path=file.path, encoding=file.encoding)
            columns.answered.connect(self._on_columns)
        self.changed.emit()

    def _on_columns(self, answer: reading.ColumnsShown) -> None:
        if self.problem is not None:
            self.columns, self.records = answer.columns, answer.records
            self.changed.emit()
