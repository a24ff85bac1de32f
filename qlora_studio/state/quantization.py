"""What storing a model in few bits does to it: measured on demand by the engine, kept for the next time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from qlora_studio.config.run_config import SAMPLE
from qlora_studio.errors import StudioError
from qlora_studio.models.quantization_report import (
    BLOCK_SIZES,
    QuantizationReport,
    read_report,
    report_file,
    save_report,
)
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.background import Background
from qlora_studio.state.engine import EngineState
from qlora_studio.state.model_work import ModelWork
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

HOLDS = "A model's quantization is being measured, which holds the device."


class QuantizationState(ModelWork):
    """saved: the folder that tables and pictures lie in."""

    saved = Signal(object)

    def __init__(
        self, engine: EngineState, reader: Reader, sample_model: SampleModel, parent: QObject | None = None
    ) -> None:
        super().__init__(engine, reader, sample_model, parent)
        self._background = Background("quantization", self)
        self._command: int | None = None
        self._asked = ""  # the model that is measured now, or was last
        self._text = ""
        self._all_blocks = False
        self._stopping = False
        self.model = ""  # that is looked at: a folder, or "sample"
        self.report: QuantizationReport | None = None  # of that model
        self.busy = False
        self.words = ""
        self.done = self.total = 0
        self._problem: Problem | None = None  # of the model that was asked last

    # What is shown ----------------------------------------------------------------------------------

    @property
    def why_not(self) -> str:
        """Why nothing can be measured now, in words; empty where it can."""
        if self._engine.held:
            return self._engine.held
        return "" if self.model else "No model is chosen."

    @property
    def busy_here(self) -> bool:
        """Whether the model that is looked at is being measured."""
        return self.busy and self._asked == self.model

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end."""
        return self._stopping

    @property
    def problem(self) -> Problem | None:
        """Of the model that is looked at."""
        return self._problem if self._asked == self.model else None

    def look_at(self, model: str, again: bool = False) -> None:
        """What was measured of it before is read; of the model that is looked at already, only `again`."""
        if model == self.model and not again:
            return
        self.model, self.report = model, None
        self.changed.emit()
        self._read()

    # What is asked ----------------------------------------------------------------------------------

    def start(self, text: str = "", all_blocks: bool = False) -> None:
        """Of the model that is looked at. text: a file to read for the perplexity, or "sample"."""
        if self.why_not:
            return
        self._asked, self._text, self._all_blocks = self.model, text, all_blocks
        self._problem, self.busy = None, True
        self._engine.lend(HOLDS, page="models")
        self._now("Starting")
        self._advance()

    def stop(self) -> None:
        """Nothing is kept."""
        if self._command is not None:
            self._stopping = True
            self._engine.say(commands.StopMeasuring(id=self._command))
            self._now("Stopping")
        elif self.busy:
            self._rest()

    def save(self, folder: Path) -> None:
        """Tables and pictures of what is shown, into a folder of their own there."""
        report = self.report
        if report is None:
            return
        place = folder / f"{report.model}-quantization"
        self._background.do(
            partial(save_report, report, place), lambda _: self.saved.emit(place), self._on_not_saved
        )

    # One measurement: sample model, text, engine ------------------------------------------------------

    def _advance(self) -> None:
        if not self.busy or self._job is not None or self._command is not None:
            return
        if self._asked == SAMPLE and not self._sample_model.ready:
            self._now("Unpacking the sample model, once")
            self._sample_model.make()
            return
        if not self._text:
            self._measure("")
            return
        self._ask(reading.PrepareText, self._on_prepared, model=self._asked, path=self._text)

    def _measure(self, prepared: str) -> None:
        self._background.do(
            partial(report_file, self._folder(self._asked)),
            lambda out: self._say(out, prepared),
            lambda error: self._fail(Problem(error.message, error.hint)),
        )

    def _say(self, out: Path, prepared: str) -> None:
        if not self.busy:  # it was stopped meanwhile
            return
        self._command = self._engine.command(
            commands.MeasureQuantization,
            model=self._asked,
            out=str(out),
            block_sizes=BLOCK_SIZES if self._all_blocks else (64,),
            prepared=prepared,
            text=self._text,
        )
        self._now("Starting")

    def _on_prepared(self, answer: reading.EvaluationPrepared) -> None:
        self._measure(answer.prepared)

    def _on_progress(self, progress: reading.Progress) -> None:
        self._now(progress.words, progress.done, progress.total)

    def _on_refused(self, problem: Problem, job: Job) -> None:
        self._fail(problem)

    def _on_sample_made(self) -> None:
        self._read()
        super()._on_sample_made()

    def _on_sample_failed(self, problem: Problem) -> None:
        if self.busy and self._command is None and self._job is None:
            self._fail(problem)

    def _on_heard(self, event: events.EngineEvent) -> None:
        if self._command is None:
            return
        match event:
            case events.LoadingProgress() if not self._stopping:
                self._now(event.words, event.done, event.total)
            case events.QuantizationMeasured() if event.id == self._command:
                self._rest()
                self._read()
            case events.CommandFailed() if event.id == self._command:
                problem = None if self._stopping else event.error
                self._rest()
                self._problem = problem
                self.changed.emit()

    def _on_engine_ended(self, reason: str) -> None:
        if self._command is not None:
            self._fail(Problem(f"The engine ended ({reason}) before all was measured.", "Try again."))

    # What came of it ----------------------------------------------------------------------------------

    def _read(self) -> None:
        model = self.model
        if not model or (model == SAMPLE and not self._sample_model.ready):
            return
        self._background.do(
            partial(_kept, self._folder(model)),
            lambda report: self._on_read(model, report),
            self._on_not_read,
        )

    def _on_read(self, model: str, report: QuantizationReport | None) -> None:
        if model == self.model:
            self.report = report
            self.changed.emit()

    def _on_not_read(self, error: StudioError) -> None:
        """What was kept is broken: as if nothing had been measured yet."""
        self.changed.emit()

    def _on_not_saved(self, error: StudioError) -> None:
        self._asked, self._problem = self.model, Problem(error.message, error.hint)
        self.changed.emit()

    def _folder(self, model: str) -> Path:
        return self._sample_model.folder if model == SAMPLE else Path(model)

    def _fail(self, problem: Problem) -> None:
        self._rest()
        self._problem = problem
        self.changed.emit()

    def _rest(self) -> None:
        self._give_up_job()
        self._command = None
        self.busy = self._stopping = False
        self._engine.lend("")
        self._now("")

    def _now(self, words: str, done: int = 0, total: int = 0) -> None:
        self.words, self.done, self.total = words, done, total
        self.changed.emit()


def _kept(folder: Path) -> QuantizationReport | None:
    """Raises: StudioError where it can't be read."""
    try:
        path = report_file(folder)
    except OSError:  # the folder went away, or is being written
        return None
    return read_report(path) if path.is_file() else None
