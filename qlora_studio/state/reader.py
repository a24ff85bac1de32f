"""Jobs for the reader, each with its own signals."""

from __future__ import annotations

import itertools
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.client.reader_thread import ReaderThread
from qlora_studio.protocol.reading import Progress, ReaderAnswer, Refused, Request


class Job(QObject):
    """One request on its way.

    progress: Progress
    answered: the request's own answer
    refused:  Problem(message, hint)
    too_late: the request's own answer, which was on its way when it was cancelled

    likely_encoding: of a file that was refused because it isn't UTF-8; else empty
    beside: that file, where it is one beside the data; else empty
    """

    progress = Signal(object)
    answered = Signal(object)
    refused = Signal(object)
    too_late = Signal(object)

    def __init__(self, request_id: int, reader: Reader) -> None:
        super().__init__(reader)
        self.id = request_id
        self.likely_encoding = self.beside = ""
        self._reader = reader

    def cancel(self) -> None:
        """Nothing is emitted any more but `too_late`."""
        self._reader.cancel(self)


class Reader(QObject):
    """The window's side of one reader process."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._ids = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._cancelled: dict[int, Job] = {}  # until the thread is done with them
        self._thread = ReaderThread(self)
        self._thread.heard.connect(self._on_heard)
        self._watch = QTimer(self, interval=1000)
        self._watch.timeout.connect(self._thread.end_if_silent)

    def ask(self, request: type[Request], **fields: Any) -> Job:
        """`reader.ask(ShowRows, dataset=..., start=0, count=50)`; connect to the job's signals at once."""
        job = Job(next(self._ids), self)
        self._jobs[job.id] = job
        if not self._thread.isRunning():
            self._thread.start()
            self._watch.start()
        self._thread.ask(request(id=job.id, **fields))  # type: ignore[arg-type]  # one of ReaderRequest
        return job

    def cancel(self, job: Job) -> None:
        """See `Job.cancel`."""
        if self._jobs.pop(job.id, None) is not None:
            self._cancelled[job.id] = job
            self._thread.give_up(job.id)

    def renew(self) -> None:
        """The next request gets a new process: one that is at work ends with that."""
        self._thread.renew()

    def close(self) -> None:
        """Ends the process and waits for the thread."""
        self._watch.stop()
        if self._thread.isRunning():
            self._thread.end()
            self._thread.wait()

    def _on_heard(self, answer: ReaderAnswer) -> None:
        assert not isinstance(answer, type(None))
        answer_id = getattr(answer, "id", 0)
        if answer_id in self._cancelled:
            self._on_cancelled(answer)
            return
        job = self._jobs.get(answer_id)
        if job is None:
            return
        if isinstance(answer, Progress):
            job.progress.emit(answer)
            return
        del self._jobs[job.id]
        if isinstance(answer, Refused):
            job.likely_encoding, job.beside = answer.likely_encoding, answer.beside
            job.refused.emit(answer.error)
        else:
            job.answered.emit(answer)
        job.deleteLater()

    def _on_cancelled(self, answer: ReaderAnswer) -> None:
        if isinstance(answer, Progress):
            return
        job = self._cancelled.pop(getattr(answer, "id", 0))
        if not isinstance(answer, Refused):
            job.too_late.emit(answer)
        job.deleteLater()
