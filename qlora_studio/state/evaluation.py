"""How a run's adapter does on a file, beside its base model: asked here, kept with the run."""

from __future__ import annotations

from enum import Enum
from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from qlora_studio.config.run_config import SAMPLE, SHAPE_PREFIX
from qlora_studio.errors import StudioError
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.evaluation_report import evaluation_of
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.evaluations import Evaluation, Evaluations, add_evaluation, read_evaluations
from qlora_studio.runs.folder import Run
from qlora_studio.runs.standing import ENDED
from qlora_studio.state.background import Background
from qlora_studio.state.engine import EngineState
from qlora_studio.state.model_work import ModelWork
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

HOLDS = "An evaluation is on its way and holds the device."


class Stage(Enum):
    """How far an evaluation is."""

    RESTING = "resting"
    PREPARING = "preparing"  # the file is read and turned into tokens
    ASKING = "asking"  # the engine asks adapter and base
    STOPPING = "stopping"


class EvaluationState(ModelWork):
    """finished: Evaluation, as the run keeps it."""

    finished = Signal(object)

    def __init__(
        self,
        engine: EngineState,
        reader: Reader,
        sample_model: SampleModel,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(engine, reader, sample_model, parent)
        self._background = Background("evaluations", self)
        self._command: int | None = None
        self._encoding = "auto"
        self._notes: tuple[str, ...] = ()  # why rows of the file are missing
        self.run: Run | None = None  # that is looked at
        self.found: tuple[Evaluation, ...] = ()  # of that run
        self.skipped_lines = 0
        self.asked: Run | None = None  # that is evaluated now, or was last
        self.file = ""  # on which
        self.stage = Stage.RESTING
        self.words = ""
        self.done = self.total = 0
        self.problem: Problem | None = None  # of the one that was asked last
        self.unreadable: Problem | None = None  # why those of the run that is looked at can't be read
        self.likely_encoding = ""  # of a file that was refused because it isn't UTF-8

    # What is shown ----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether an evaluation is on its way."""
        return self.stage is not Stage.RESTING

    @property
    def why_not(self) -> str:
        """Why none can be started, in words; empty where one can."""
        if self.busy:
            return "Another evaluation is on its way."
        if self._engine.held:
            return self._engine.held
        if self.run is None:
            return "No run is open."
        if self.run.record.config.model.path.startswith(SHAPE_PREFIX):
            return "This run's model has random weights: there is nothing to ask it."
        if self.run.record.config.trains_all:
            ended = self.run.model is not None and self.run.state.state in ENDED
            return "" if ended else "This run has no model yet: it is written when it finishes or is stopped."
        if self.run.adapter is None and not self.run.state.step:
            return "This run has no adapter yet."
        return ""

    @property
    def problem_here(self) -> Problem | None:
        """Of the run that is looked at: another run's is shown once that one is looked at again."""
        return self.problem if self.problem is not None and self.asked_here else self.unreadable

    @property
    def asked_here(self) -> bool:
        """Whether the run that is looked at is the one that was asked last."""
        return self.asked is not None and self.run is not None and self.asked.folder == self.run.folder

    def look_at(self, run: Run | None) -> None:
        """The evaluations that this run keeps are read."""
        if run is None or self.run is None or run.folder != self.run.folder:
            self.found, self.skipped_lines, self.unreadable = (), 0, None
        self.run = run
        if run is not None:
            self._background.do(
                partial(read_evaluations, run.folder),
                partial(self._on_read, run.folder),
                partial(self._on_unreadable, run.folder),
            )
        self.changed.emit()

    # What is asked ----------------------------------------------------------------------------------

    def start(self, file: str, encoding: str = "auto") -> None:
        """Of the run that is looked at. Ends in `finished`, in a `problem`, or where it is stopped."""
        if self.why_not:
            return
        self.asked, self.file, self._encoding = self.run, file, encoding
        self.problem, self.likely_encoding = None, ""
        self._now(Stage.PREPARING, "Reading the file")
        self._advance()

    def stop(self) -> None:
        """Nothing is kept."""
        if self.stage is Stage.PREPARING:
            self._rest()
        elif self.stage is Stage.ASKING and self._command is not None:
            self._engine.say(commands.StopEvaluating(id=self._command))
            self._now(Stage.STOPPING, "Stopping")

    # One evaluation: sample model, file, engine -------------------------------------------------------

    def _advance(self) -> None:
        if self.stage is not Stage.PREPARING or self._job is not None:
            return
        assert self.asked is not None
        if self.asked.record.config.model.path == SAMPLE and not self._sample_model.ready:
            self._now(Stage.PREPARING, "Unpacking the sample model, once")
            self._sample_model.make()
            return
        self._ask(
            reading.PrepareEvaluation,
            self._on_prepared,
            run=str(self.asked.folder),
            path=self.file,
            encoding=self._encoding,
        )

    def _on_progress(self, progress: reading.Progress) -> None:
        count = f": {progress.done:,} of {progress.total:,}" if progress.total else ""
        self._now(Stage.PREPARING, f"{progress.words}{count}")

    def _on_prepared(self, answer: reading.EvaluationPrepared) -> None:
        assert self.asked is not None
        if self._engine.training:  # a run was started meanwhile
            self._fail(Problem(self._engine.held, "Pause it, or wait."))
            return
        self._notes = answer.notes
        self._command = self._engine.command(
            commands.Evaluate, run=str(self.asked.folder), prepared=answer.prepared
        )
        self._now(Stage.ASKING, "Loading the model")

    def _on_refused(self, problem: Problem, job: Job) -> None:
        self.likely_encoding = job.likely_encoding
        self._fail(problem)

    def _on_sample_failed(self, problem: Problem) -> None:
        if self.stage is Stage.PREPARING and self._job is None:
            self._fail(problem)

    def _on_heard(self, event: events.EngineEvent) -> None:
        if self._command is None:
            return
        match event:
            case events.EvaluationProgress() if self.stage is Stage.ASKING and not self._engine.training:
                self.done, self.total = event.done, event.total
                self._now(Stage.ASKING, event.words or "Measuring the trained model")
            case events.EvaluationReport() if event.id == self._command:
                self._keep(event)
            case events.CommandFailed() if event.id == self._command and self.stage is Stage.STOPPING:
                self._rest()
            case events.CommandFailed() if event.id == self._command:
                self._fail(event.error)

    def _on_engine_ended(self, reason: str) -> None:
        if self._command is not None:
            self._fail(
                Problem(f"The engine ended ({reason}) before the evaluation was complete.", "Try again.")
            )

    # What came of it ----------------------------------------------------------------------------------

    def _keep(self, report: events.EvaluationReport) -> None:
        assert self.asked is not None
        folder = self.asked.folder
        self._rest()
        self._background.do(
            partial(_kept, folder, evaluation_of(report, self.file, self._notes)),
            partial(self._on_kept, folder),
            lambda error: self._fail(Problem(error.message, error.hint)),
        )

    def _on_kept(self, folder: Path, kept: tuple[Evaluation, Evaluations]) -> None:
        evaluation, evaluations = kept
        self._on_read(folder, evaluations)
        self.finished.emit(evaluation)

    def _on_read(self, folder: Path, evaluations: Evaluations) -> None:
        if self.run is not None and folder == self.run.folder:
            self.found, self.skipped_lines = evaluations.found, evaluations.skipped_lines
            self.unreadable = None
            self.changed.emit()

    def _on_unreadable(self, folder: Path, error: StudioError) -> None:
        if self.run is not None and folder == self.run.folder:
            self.unreadable = Problem(error.message, error.hint)
            self.changed.emit()

    def _fail(self, problem: Problem) -> None:
        self.problem = problem
        self._rest()

    def _rest(self) -> None:
        self._give_up_job()
        self._command = None
        self.done = self.total = 0
        self._now(Stage.RESTING, "")

    def _now(self, stage: Stage, words: str) -> None:
        self.stage, self.words = stage, words
        self._engine.lend(HOLDS if self.busy else "")
        self.changed.emit()


def _kept(folder: Path, evaluation: Evaluation) -> tuple[Evaluation, Evaluations]:
    """Raises: StudioError."""
    add_evaluation(folder, evaluation)
    return evaluation, read_evaluations(folder)
