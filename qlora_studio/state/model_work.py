"""Work with a model: a reader looks at what it needs, one thing after the other, and the engine does it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PySide6.QtCore import QObject, Signal

from qlora_studio.protocol import events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.engine import EngineState
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel


class ModelWork(QObject):
    """Override `_advance`, which does the next thing that is needed, and what is heard meanwhile.

    changed: anything that is shown is another one, or the engine does something else
    """

    changed = Signal()

    def __init__(
        self, engine: EngineState, reader: Reader, sample_model: SampleModel, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._engine = engine
        self._reader = reader
        self._sample_model = sample_model
        self._job: Job | None = None  # what the reader was asked and hasn't answered
        engine.heard.connect(self._on_heard)
        engine.ended.connect(self._on_engine_ended)
        engine.changed.connect(self.changed)
        sample_model.made.connect(self._on_sample_made)
        sample_model.failed.connect(self._on_sample_failed)

    def _ask(self, request: type[reading.Request], answered: Callable[..., None], **fields: object) -> None:
        """One thing at a time; `answered` is called with the answer."""
        job = self._job = self._reader.ask(request, **fields)
        job.progress.connect(self._on_progress)
        job.answered.connect(partial(self._take_answer, answered))
        job.refused.connect(partial(self._take_refusal, job))

    def _take_answer(self, answered: Callable[..., None], answer: reading.Answer) -> None:
        self._job = None
        answered(answer)

    def _take_refusal(self, job: Job, problem: Problem) -> None:
        self._job = None
        self._on_refused(problem, job)

    def _give_up_job(self) -> None:
        """Nobody waits for its answer any more."""
        if self._job is not None:
            self._job.cancel()
            self._job = None

    # What the work has to say to it --------------------------------------------------------------------

    def _advance(self) -> None:
        raise NotImplementedError

    def _on_progress(self, progress: reading.Progress) -> None:
        """Of the job in hand."""

    def _on_refused(self, problem: Problem, job: Job) -> None:
        raise NotImplementedError

    def _on_heard(self, event: events.EngineEvent) -> None:
        raise NotImplementedError

    def _on_engine_ended(self, reason: str) -> None:
        raise NotImplementedError

    def _on_sample_made(self) -> None:
        self._advance()

    def _on_sample_failed(self, problem: Problem) -> None:
        raise NotImplementedError
