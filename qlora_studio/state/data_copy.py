"""The rows as they are after all fixes, on their way to a new file."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.reader import Job, Reader


class DataCopy(QObject):
    """changed: `words` is another one
    saved:   CopySaved
    refused: Problem: no file was made

    words:   how far it is, empty where nothing is being written
    """

    changed = Signal()
    saved = Signal(object)
    refused = Signal(object)

    def __init__(self, reader: Reader, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._reader = reader
        self._job: Job | None = None
        self.words = ""

    def save(self, dataset: str, path: str) -> None:
        """Ends in `saved` or `refused`. One at a time."""
        self.stop()
        self.words = "Saving the copy"
        self._job = self._reader.ask(reading.SaveCopy, dataset=dataset, path=path)
        self._job.progress.connect(self._on_progress)
        self._job.answered.connect(self._on_saved)
        self._job.refused.connect(self._on_refused)
        self.changed.emit()

    def stop(self) -> None:
        """At once; nothing is left of it."""
        if self._job is not None:
            self._job.cancel()
            self._end()

    def _on_progress(self, progress: reading.Progress) -> None:
        self.words = f"Saving the copy: {progress.done:,} of {progress.total:,} rows"
        self.changed.emit()

    def _on_saved(self, answer: reading.CopySaved) -> None:
        self._end()
        self.saved.emit(answer)

    def _on_refused(self, problem: Problem) -> None:
        self._end()
        self.refused.emit(problem)

    def _end(self) -> None:
        self._job = None
        self.words = ""
        self.changed.emit()
