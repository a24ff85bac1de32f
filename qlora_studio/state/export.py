"""A run's adapter, or the model with it merged in: written, and compared with what was trained."""

from __future__ import annotations

import time
from collections import deque
from enum import Enum
from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.prompts import CHECK_QUESTIONS, check_prompts
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.data.conversation import Message
from qlora_studio.errors import StudioError
from qlora_studio.memory.disk import merged_bytes, merged_nf4_bytes
from qlora_studio.models.elsewhere import Exported, ReadyLine, ready_lines
from qlora_studio.models.gguf_support import Q8_0, check_family, gguf_bytes, quant_problem
from qlora_studio.models.merged import NF4
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.space import in_gb
from qlora_studio.state.background import Background
from qlora_studio.state.engine import EngineState
from qlora_studio.state.export_source import Place, Source, look_at, sources, suggested_folder
from qlora_studio.state.model_work import ModelWork
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

SAMPLE_SHAPE = "smollm2-135m"
ADAPTER, MERGED, GGUF = "adapter", "merged", "gguf"
HOLDS = "An export is being written and holds the device."
LOOK_AFTER_MS = 200  # of quiet, while a folder is being typed


class Stage(Enum):
    """How far an export is."""

    RESTING = "resting"
    PREPARING = "preparing"  # model and adapter are checked, the prompts encoded
    WRITING = "writing"  # the engine writes, reads again and compares
    STOPPING = "stopping"


class ExportState(ModelWork):
    """stopped: nothing was left behind."""

    stopped = Signal()

    def __init__(
        self,
        engine: EngineState,
        reader: Reader,
        sample_model: SampleModel,
        preferences: PreferencesState,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(engine, reader, sample_model, parent)
        self._preferences = preferences
        self._background = Background("export-disk", self)
        self._shapes: dict[str, ModelShape] = {}  # of the models that the reader found sound
        self._command: int | None = None
        self._to_encode: deque[str] = deque()
        self._encoded: list[tuple[int, ...]] = []
        self._folder_is_own = False
        self._bytes_since: tuple[float, int] | None = None  # monotonic seconds, bytes done then
        self.sources: list[Source] | None = None  # None: not looked yet
        self.sources_problem = ""
        self.source: Source | None = None
        self.checkpoint: int | None = None  # a step; None: the finished adapter
        self.kind = ADAPTER
        self.quant = Q8_0  # of a GGUF file
        self.merged_quant = ""  # of a merged model: in 16 bit, or nf4
        self.place = Place()
        self.prompt_count = len(CHECK_QUESTIONS)
        self.limit = 0.95  # of the tokens that must agree
        self.stage = Stage.RESTING
        self.words = ""
        self.done = self.total = 0  # bytes
        self.model_problem: Problem | None = None
        self.problem: Problem | None = None
        self.finished: events.ExportFinished | None = None
        self.modelfile: reading.ModelfileMade | None = None  # of the GGUF file in hand, or the one finished
        self._look = QTimer(self, interval=LOOK_AFTER_MS, singleShot=True)
        self._look.timeout.connect(self._look_at_folder)

    # What is shown ----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether an export is on its way."""
        return self.stage is not Stage.RESTING

    @property
    def can_stop(self) -> bool:
        """False once it was asked."""
        return self.stage in (Stage.PREPARING, Stage.WRITING)

    @property
    def holder(self) -> str:
        """The run that holds the device, empty where it is free."""
        return self._engine.run_name

    @property
    def waits_for(self) -> str:
        """Why the start isn't possible, in words; empty where it is."""
        if self._engine.held and not self.busy:
            return self._engine.held
        if self.source is None:
            return "Choose a run."
        if self.model_problem is not None:
            return f"{self.model_problem.message} {self.model_problem.hint}".strip()
        if self.shape is None:
            return "Checking the model"
        if self.kind == ADAPTER and self.adapter_problem:
            return self.adapter_problem
        if self.kind == GGUF and (problem := self.gguf_problem or quant_problem(self.quant)):
            return problem
        return self.place.problem or self._missing_room()

    @property
    def gguf_problem(self) -> str:
        """Why no GGUF file can be made of this run's model; empty where it can, or isn't known yet."""
        if self.shape is not None:
            try:
                check_family(self.shape.family)
            except StudioError as error:
                return error.message
        return ""

    @property
    def adapter_problem(self) -> str:
        """Why this run's adapter can't be written; empty where it can."""
        if self.source is None or not self.source.is_model:
            return ""
        return "All weights were trained: there is no adapter. As a merged model the model itself is written."

    @property
    def shape(self) -> ModelShape | None:
        """Of the run's model, once it was checked; the bundled one's is known before it is unpacked."""
        if self.source is None:
            return None
        found = self._shapes.get(self._model_folder())
        return known_shape(SAMPLE_SHAPE) if found is None and self.source.model == SAMPLE else found

    @property
    def prompts(self) -> list[str]:
        """That the written file and the adapter are compared on."""
        return check_prompts(self.source.prompts if self.source else (), self.prompt_count)

    @property
    def verified(self) -> bool:
        """Whether the file that was written does what the adapter does."""
        result = self.finished.verified if self.finished else None
        return result is not None and result.passed and result.token_agreement >= self.limit

    @property
    def ready_lines(self) -> list[ReadyLine]:
        """How other programs load what was written last; none before that."""
        if self.finished is None or self.source is None:
            return []
        run = self.source.run
        return ready_lines(
            Exported(
                folder=self.finished.folder,
                files=self.finished.files,
                base=self._model_folder(),
                rank=run.record.config.lora.r,
                name=run.folder.name,
                has_source=self.shape is not None and self.shape.decoder is not None,
            )
        )

    @property
    def seconds_left(self) -> float | None:
        """Of the writing, by the bytes so far; None where that can't be told yet."""
        if self._bytes_since is None or not self.total:
            return None
        began, before = self._bytes_since
        passed, written = time.monotonic() - began, self.done - before
        return passed * (self.total - self.done) / written if written > 0 and passed > 1 else None

    def needed_bytes(self, kind: str) -> int | None:
        """What the files take; None while the model isn't known."""
        if self.source is None:
            return None
        if kind == ADAPTER:
            return None if self.source.is_model else self.source.result_bytes
        if self.shape is None:
            return None
        if kind == GGUF:
            return gguf_bytes(self.shape.parameters, self.quant, self.shape.hidden_size)
        return merged_nf4_bytes(self.shape) if self.merged_quant == NF4 else merged_bytes(self.shape)

    # What is asked ----------------------------------------------------------------------------------

    def refresh(self, wanted: Path | None = None) -> None:
        """Looks for runs that can be exported; chooses `wanted`, a run's folder, where it is one."""
        look = partial(sources, self._preferences.runs_folder)
        self._background.do(
            look,
            lambda found: self._on_sources(found, wanted),
            lambda error: self._on_sources([], wanted, str(error)),
        )

    def choose(self, folder: Path) -> None:
        """The run of this folder; its model is checked, as nothing is known of it otherwise."""
        source = next((item for item in self.sources or () if item.folder == folder), None)
        if source is None or self.busy or (self.source is not None and source.folder == self.source.folder):
            return
        self.source, self.checkpoint = source, source.best
        if source.is_model and self.kind == ADAPTER:
            self.kind = MERGED
        self.finished = self.problem = self.model_problem = self.modelfile = None
        self._folder_is_own = False
        self._suggest_folder()
        self._give_up_job()
        if self.shape is None:
            self._ask(reading.CheckModel, self._on_model_checked, folder=self._model_folder())
        self.changed.emit()

    def set_checkpoint(self, step: int | None) -> None:
        """None: the finished adapter."""
        if self.source is not None and (step is None or step in self.source.checkpoints):
            self.checkpoint = step
            if not self._folder_is_own:
                self._suggest_folder()
            self.changed.emit()

    def set_kind(self, kind: str) -> None:
        """adapter | merged | gguf."""
        self.kind = kind
        if not self._folder_is_own:
            self._suggest_folder()
        self.changed.emit()

    def set_quant(self, quant: str) -> None:
        """How a GGUF file stores its numbers: one of `QUANTS`."""
        self.quant = quant
        self.changed.emit()

    def set_merged_quant(self, quant: str) -> None:
        """How a merged model stores its linear layers: empty for 16 bit, or nf4."""
        self.merged_quant = quant
        self.changed.emit()

    def set_folder(self, folder: str) -> None:
        """As typed or chosen; the disk is looked at once the typing rests."""
        self._folder_is_own = True
        self.place = Place(folder, self.place.free_bytes)
        self._look.start()
        self.changed.emit()

    def set_prompt_count(self, count: int) -> None:
        """How many prompts the two are compared on."""
        self.prompt_count = count
        self.changed.emit()

    def set_limit(self, share: float) -> None:
        """The share of tokens that must agree for the tick; it counts for a finished check too."""
        self.limit = share
        self.changed.emit()

    def start(self) -> None:
        """Ends in `finished`, in a `problem`, or by `stopped`."""
        if self.busy or self.waits_for:
            return
        self.finished = self.problem = self.modelfile = None
        self.done = self.total = 0
        self._bytes_since = None
        self._to_encode = deque(self.prompts)
        self._encoded = []
        self._now(Stage.PREPARING, "Checking model and adapter")
        self._advance()

    def stop(self) -> None:
        """What was written so far is removed."""
        if self.stage is Stage.PREPARING:
            self._rest()
            self.stopped.emit()
        elif self.stage is Stage.WRITING and self._command is not None:
            self._engine.say(commands.StopExport(id=self._command))
            self._now(Stage.STOPPING, "Stopping, what was written is removed")

    def forget_problem(self) -> None:
        """It was read."""
        self.problem = None

    # One export: check, encode, write ------------------------------------------------------------------

    def _advance(self) -> None:
        """The next thing that the export in hand needs."""
        if self.stage is not Stage.PREPARING or self.source is None:
            return
        model = self._model_folder()
        if self.source.model == SAMPLE and not self._sample_model.ready:
            self._now(Stage.PREPARING, "Unpacking the sample model, once")
            self._sample_model.make()
        elif model not in self._shapes:
            self._ask(reading.CheckModel, self._on_model_checked, folder=model)
        elif self.source.is_model:
            self._encode_next()
        else:
            adapter = str(self.source.adapter_at(self.checkpoint))
            self._ask(reading.CheckAdapter, self._on_adapter_checked, folder=adapter, base=model)

    def _encode_next(self) -> None:
        if self._to_encode:
            messages = (Message("user", self._to_encode[0]),)
            self._now(Stage.PREPARING, f"Encoding the {len(self.prompts)} prompts")
            self._ask(reading.EncodeChat, self._on_encoded, model=self._model_folder(), messages=messages)
        elif self.kind == GGUF and self.modelfile is None:
            self._now(Stage.PREPARING, "Writing the chat template in Ollama's words")
            self._ask(reading.MakeModelfile, self._on_modelfile, model=self._model_folder())
        else:
            self._write()

    def _write(self) -> None:
        assert self.source is not None
        if self.holder:  # a run was started meanwhile
            self._fail(Problem(self._engine.held, "Pause it, or wait."))
            return
        self._command = self._engine.command(
            commands.Export,
            run=str(self.source.folder),
            to=self.kind,
            quant={GGUF: self.quant, MERGED: self.merged_quant}.get(self.kind, ""),
            modelfile=self.modelfile.text if self.modelfile else "",
            checkpoint=self.checkpoint,
            out=str(Path(self.place.folder).expanduser()),
            prompts=tuple(self._encoded),
        )
        self._now(Stage.WRITING, "Starting")

    def _on_progress(self, progress: reading.Progress) -> None:
        if self.stage is Stage.PREPARING:
            count = f": {progress.done:,} of {progress.total:,}" if progress.total else ""
            self._now(Stage.PREPARING, f"{progress.words}{count}")

    def _on_model_checked(self, answer: reading.ModelChecked) -> None:
        self._shapes[self._model_folder()] = answer.report.shape
        self._advance()
        self.changed.emit()

    def _on_adapter_checked(self, answer: reading.AdapterChecked) -> None:
        self._encode_next()

    def _on_encoded(self, answer: reading.ChatEncoded) -> None:
        self._encoded.append(answer.ids)
        self._to_encode.popleft()
        self._encode_next()

    def _on_modelfile(self, answer: reading.ModelfileMade) -> None:
        self.modelfile = answer
        self._write()

    def _on_refused(self, problem: Problem, job: Job) -> None:
        if self.busy:
            self._fail(problem)
        else:
            self.model_problem = problem
            self.changed.emit()

    def _on_sample_failed(self, problem: Problem) -> None:
        if self.stage is Stage.PREPARING:
            self._fail(problem)

    def _on_heard(self, event: events.EngineEvent) -> None:
        if self._command is None or getattr(event, "id", None) != self._command:
            return
        match event:
            case events.ExportProgress() if self.stage is Stage.WRITING:
                if self._bytes_since is None or event.words != self.words:
                    self._bytes_since = (time.monotonic(), event.done)
                self.done, self.total = event.done, event.total
                self._now(Stage.WRITING, event.words)
            case events.ExportFinished():
                self.finished = event
                self._rest()
                self._suggest_folder_anew()
            case events.CommandFailed() if self.stage is Stage.STOPPING:
                self._rest()
                self.stopped.emit()
            case events.CommandFailed():
                self._fail(event.error)

    def _on_engine_ended(self, reason: str) -> None:
        if self._command is not None:
            self._fail(
                Problem(f"The engine ended ({reason}) before the export was complete.", "Export again.")
            )

    def _fail(self, problem: Problem) -> None:
        self.problem = problem
        self._rest()

    def _rest(self) -> None:
        self._give_up_job()
        self._command = None
        self._now(Stage.RESTING, "")

    def _now(self, stage: Stage, words: str) -> None:
        self.stage, self.words = stage, words
        self._engine.lend(HOLDS if self.busy else "", "export")
        self.changed.emit()

    # Runs and folders ---------------------------------------------------------------------------------

    def _model_folder(self) -> str:
        assert self.source is not None
        return str(self._sample_model.folder) if self.source.model == SAMPLE else self.source.model

    def _missing_room(self) -> str:
        needed, free = self.needed_bytes(self.kind), self.place.free_bytes
        if needed is None or free is None or needed <= free:
            return ""
        return f"This needs {in_gb(needed)}; {in_gb(free)} are free there."

    def _on_sources(self, found: list[Source], wanted: Path | None, problem: str = "") -> None:
        self.sources, self.sources_problem = found, problem
        known = {source.folder: source for source in found}
        if self.source is not None and not self.busy:
            self.source = known.get(self.source.folder)  # as it is now; None: its folder is gone
        if wanted in known:
            self.choose(wanted)
        elif self.source is None and found:
            self.choose(found[0].folder)
        self.changed.emit()

    def _suggest_folder(self) -> None:
        if self.source is None:
            return
        exports = self._preferences.runs_folder.parent / "exports"
        suggest = partial(suggested_folder, exports, self.source.run, self.checkpoint, self.kind)
        self._background.do(lambda: look_at(str(suggest())), self._on_suggested)

    def _suggest_folder_anew(self) -> None:
        """The folder is there now: another export needs another one."""
        self._folder_is_own = False
        self._suggest_folder()

    def _look_at_folder(self) -> None:
        self._background.do(partial(look_at, self.place.folder), self._on_looked)

    def _on_suggested(self, place: Place) -> None:
        if not self._folder_is_own:
            self.place = place
            self.changed.emit()

    def _on_looked(self, place: Place) -> None:
        if place.folder == self.place.folder:
            self.place = place
            self.changed.emit()
