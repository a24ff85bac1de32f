"""What the Train page shows: the chosen model and data, what they cost, and what stands in the way."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.config import places
from qlora_studio.config.architecture import as_trained
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import SAMPLE, DataConfig, LoraConfig, RunConfig, SamplePrompt
from qlora_studio.config.toml_file import read_run_config, run_config_text
from qlora_studio.data.report import ImportReport
from qlora_studio.errors import StudioError
from qlora_studio.memory.compiling import not_fp8_reason, not_in_ram_reason, not_kept_dequantized_reason
from qlora_studio.memory.correction import NO_CORRECTION, computes_padding, correction
from qlora_studio.memory.disk import run_bytes
from qlora_studio.memory.largest import Largest, largest_that_fits
from qlora_studio.memory.not_as_asked import not_as_asked
from qlora_studio.memory.parts import trained_parameters
from qlora_studio.memory.promise import Promise, promise
from qlora_studio.memory.speed import speed_here
from qlora_studio.models.report import ModelReport
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.protocol.smaller_recipe import smaller_recipe
from qlora_studio.runs.named_run import with_start_found
from qlora_studio.state import train_problems
from qlora_studio.state.background import Background
from qlora_studio.state.data_counts import TokenCounts
from qlora_studio.state.data_name import data_stem
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.engine import EngineState
from qlora_studio.state.launch import card_in_use, device_name, ram_to_promise, room_to_promise
from qlora_studio.state.machine import MachineState
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel
from qlora_studio.state.train_cost import (
    Kept,
    Lengths,
    Stretch,
    kept_rows,
    stretches,
    tokens_computed,
    updates,
)
from qlora_studio.state.train_history import History, read_history
from qlora_studio.state.train_problems import TrainProblem

RATE = "training.learning_rate"
SAMPLE_SHAPE = "smollm2-135m"
SETTLE_MS = 50


class TrainState(QObject):
    """changed: anything of the below is another one. refused: why a file could not be read or written."""

    changed = Signal()
    refused = Signal(str)

    def __init__(
        self,
        draft: RunDraft,
        reader: Reader,
        sample_model: SampleModel,
        engine: EngineState,
        machine: MachineState,
        preferences: PreferencesState,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._draft = draft
        self._reader = reader
        self._sample_model = sample_model
        self._engine = engine
        self._machine = machine
        self._preferences = preferences
        self._background = Background("train-disk", self)
        self.counts = TokenCounts(reader, self)
        self.model: ModelReport | None = None
        self.model_problem: Problem | None = None
        self.model_words = ""  # while it is being checked
        self.data: ImportReport | None = None
        self.data_problem: Problem | None = None
        self.data_words = ""
        self.start: LoraConfig | None = None  # settings with the shape of the adapter that is trained on
        self.start_shape = ""  # the same in words
        self.start_problem: Problem | None = None
        self.start_words = ""  # while it is being checked
        self.samples: tuple[str, ...] | None = None  # taken from the data; None: not asked yet
        self.promise: Promise | None = None
        self.largest: Largest | None = None
        self.not_as_asked: tuple[str, ...] = ()  # what the run won't do, and why
        self._corrected = NO_CORRECTION  # by what runs measured here
        self.problems: list[TrainProblem] = []
        self.history = History()
        self._own_name = ""
        self._dataset = ""
        self._asked_model = self._asked_data = self._asked_samples = None  # type: object
        self._asked_start: object = None
        self._jobs: dict[str, Job] = {}
        self._kept = Kept()
        self._kept_of: tuple[Lengths | None, object] = (None, None)  # what it was counted for
        self._open = False
        self._settle = QTimer(self, interval=SETTLE_MS, singleShot=True)
        self._settle.timeout.connect(self._on_settled)
        draft.changed.connect(self._settle.start)
        draft.refused.connect(self._on_draft_refused)
        machine.changed.connect(self._settle.start)
        engine.changed.connect(self._on_engine_changed)
        self.counts.changed.connect(self._settle.start)
        sample_model.made.connect(self._on_sample_model_made)
        sample_model.failed.connect(self._on_model_refused)

    # What the page asks ----------------------------------------------------------------------------

    def open(self) -> None:
        """The page is looked at: from now on model and data are read."""
        self._open = True
        self._read_history()
        self._on_settled()

    @property
    def data_refused(self) -> Problem | None:
        """Why the data can't be used; None too where it is for the settings that it isn't counted."""
        of_kind = [*train_problems.of_kind(self.as_trained, self.has_source)]
        return self.data_problem or (None if of_kind else self.counts.problem)

    @property
    def waits_for(self) -> str:
        """Why the start isn't possible yet, in words; empty where it is."""
        if self.held_up_by:
            return self.held_up_by[0]
        first = next((problem for problem in self.problems if problem.blocks), None)
        return first.waits if first else ""

    @property
    def held_up_by(self) -> tuple[str, ...]:
        """What the start waits for until it is read, in words."""
        return tuple(filter(None, (self.model_words, self.start_words, self.data_words)))

    @property
    def lengths(self) -> Lengths | None:
        """Of every row: tokens, learned tokens."""
        return self.counts.lengths

    @property
    def skipped_accepted(self) -> bool:
        """Whether somebody looked at what was skipped of these very bytes, here or on the Data page."""
        return self.data is not None and self.data.sha256 in self._draft.skipped_accepted

    @property
    def dropped_accepted(self) -> bool:
        """Whether somebody said that most of these chats are dropped at this length."""
        return self._dropped in self._draft.dropped_accepted

    def accept(self, what: str) -> None:
        """skipped: train although more was skipped than usual; dropped: although most chats are too long."""
        if self.data is not None and what == "skipped":
            self._draft.skipped_accepted.add(self.data.sha256)
        elif what == "dropped":
            self._draft.dropped_accepted.add(self._dropped)
        self._settle.start()

    @property
    def _dropped(self) -> tuple[str, int, int]:
        data = self._draft.config.data
        return self.data.sha256 if self.data is not None else "", data.seq_len, data.target_len

    @property
    def name(self) -> str:
        """The person's own, or from data and model: `gsm8k-sample-smollm2`."""
        return self._own_name or self.history.free_name(self._suggested_name())

    def set_name(self, name: str) -> None:
        """Empty: the suggested one again."""
        self._own_name = name.strip()
        self._look_for_problems()
        self.changed.emit()

    def started(self) -> None:
        """A run of this name is there now; the next one needs another."""
        self._own_name = ""
        self._read_history()

    def shape(self) -> ModelShape | None:
        """Of the chosen model; the bundled one's is known before it is unpacked."""
        if self.model is not None:
            return self.model.shape
        return known_shape(SAMPLE_SHAPE) if self._draft.value("model.path") == SAMPLE else None

    def kept(self) -> Kept:
        """The rows that are trained on; counted anew where rows or limit are others."""
        data, rows = self._draft.config.data, self.stretches()
        depends = (data.seq_len, data.target_len, data.too_long, rows)
        if self._kept_of[0] is not self.lengths or self._kept_of[1] != depends:
            self._kept_of = (self.lengths, depends)
            self._kept = kept_rows(self.lengths, data, rows)
        return self._kept

    def stretches(self) -> tuple[Stretch, ...]:
        """What the rows are treated as."""
        return stretches(self.data, has_source=self.has_source) if self.data is not None else ()

    @property
    def has_source(self) -> bool:
        """The chosen model is an encoder-decoder: a row is a source with its target."""
        shape = self.shape()
        return shape is not None and shape.decoder is not None

    @property
    def as_trained(self) -> RunConfig:
        """The draft, as the chosen model's kind takes it."""
        shape = self.shape()
        return self._draft.config if shape is None else as_trained(self._draft.config, shape)

    @property
    def may_multiply_in_fp8(self) -> bool:
        """Whether the settings and the card here allow it; what the card doesn't tell, the run does."""
        card, shape = card_in_use(self._engine), self.shape()
        if card is None or not card.multiplies_in_fp8:
            return False
        return not_fp8_reason(shape.family if shape is not None else "", self.as_trained) is None

    @property
    def may_keep_dequantized(self) -> bool:
        """Whether there is a card, and the settings allow it."""
        shape = self.shape()
        if card_in_use(self._engine) is None:
            return False
        family = shape.family if shape is not None else ""
        return not_kept_dequantized_reason(family, self.as_trained) is None

    @property
    def may_put_embedding_in_ram(self) -> bool:
        """Whether there is a card, and a model whose embedding can lie elsewhere."""
        shape = self.shape()
        if card_in_use(self._engine) is None or shape is None:
            return False
        return not_in_ram_reason(shape, self.as_trained) is None

    def updates(self) -> int:
        """How many the run will make, about."""
        return updates(self.as_trained, self.kept())

    def seconds(self) -> float | None:
        """How long that takes on this machine; None before anything like it was measured."""
        shape, config = self.shape(), self.as_trained
        if shape is None or not self.updates():
            return None
        speed = speed_here(
            device_name(self._engine),
            shape,
            config,
            device=self._device()[0],
            card_multiplies_in_fp8=self.may_multiply_in_fp8,
        )
        if speed is None:
            return None
        padded = computes_padding(config, self._device()[0])
        return tokens_computed(config, self.kept(), padded=padded) / speed

    def disk_bytes(self) -> int | None:
        """What the run will take on disk."""
        shape = self.shape()
        return run_bytes(shape, self.as_run(), self._device()[0]) if shape is not None else None

    @property
    def promises_at_most(self) -> bool:
        """Whether the promise is for full batches, which the rows, not counted yet, may not fill."""
        return self.lengths is None and not computes_padding(self.as_trained, self._device()[0])

    def trained_parameters(self) -> int:
        """Of the adapter, or of the model."""
        shape = self.shape()
        return trained_parameters(shape, self.as_run()) if shape is not None else 0

    def as_run(self, config: RunConfig | None = None) -> RunConfig:
        """The draft, or another config, with the shape of the adapter that is trained on."""
        config = config or self._draft.config
        if self.start is None or not config.lora.start_from:
            return config
        return msgspec.structs.replace(config, lora=config.lora.shaped_as(self.start))

    def difference(self, key: str) -> int:
        """Bytes that the value of `key` takes more than its default; 0 where it is the default."""
        shape, default = self.shape(), self._draft.default(key)
        if shape is None or self.promise is None or self._draft.value(key) == default:
            return 0
        return self.promise.total - self._promised(shape, self._draft.with_value(key, default)).total

    # Prompts that are answered at each checkpoint ---------------------------------------------------

    def prompts(self) -> tuple[SamplePrompt, ...]:
        """The person's own, or those taken from the data; empty until these are known."""
        own = self._draft.config.samples
        return own or tuple(SamplePrompt(prompt=prompt) for prompt in self.samples or ())

    @property
    def prompts_are_own(self) -> bool:
        """Whether they were written by a person, or came with a settings file."""
        return bool(self._draft.config.samples)

    def suggest_prompts(self) -> None:
        """Asks which rows a run would take; nothing is asked twice."""
        config = self._draft.config
        asked = (self._asked_model, self._asked_data, config.data.validation, config.training.seed)
        if self.prompts_are_own or self.model is None or self.data is None or asked == self._asked_samples:
            return
        self._asked_samples, self.samples = asked, None
        self._ask("samples", self._on_samples, self._on_no_samples, reading.SuggestSamples, config=config)

    def set_prompts(self, prompts: Sequence[str], max_tokens: int) -> None:
        """Empty ones are left out; none at all: those of the data again."""
        own = tuple(
            SamplePrompt(prompt=prompt, max_tokens=max_tokens) for prompt in prompts if prompt.strip()
        )
        self._draft.set_many({"samples": own})
        self.suggest_prompts()

    # Settings files ---------------------------------------------------------------------------------

    def command(self) -> str:
        """The same run in a terminal, once `write_command_file` has written the file it names."""
        words = ["qlora-studio", "train", str(self._command_file()), "--name", self.name]
        if self._preferences.runs_folder != places.runs_folder():
            words += ["--runs-dir", str(self._preferences.runs_folder)]
        return shlex.join(words)

    def write_command_file(self, written: Callable[[], None]) -> None:
        """Ends in `written` or `refused`."""
        self.save_file(self._command_file(), written)

    def save_file(self, path: Path, saved: Callable[[], None]) -> None:
        """As TOML. Ends in `saved` or `refused`."""
        for refused in train_problems.of_refusals(self._draft.refusals, self._draft.fields):
            self.refused.emit(refused.words)
            return
        save = partial(_save, path, run_config_text(self._draft.config))
        self._background.do(save, lambda _: saved(), self._on_refused)

    def open_file(self, path: Path) -> None:
        """Into the draft, or `refused` with the file, the key and the reason."""
        read = partial(_opened, path, self._preferences.runs_folder)
        self._background.do(read, self._draft.replace, self._on_refused)

    # What is read ----------------------------------------------------------------------------------

    def _on_settled(self) -> None:
        if self._open:
            self._read_model()
            self._read_start()
            self._read_data()
            self._count()
        shape = self.shape()
        if shape is not None:
            quantization = self._draft.config.model.quantization
            self._corrected = correction(device_name(self._engine), shape, quantization)
        self.promise = self._promised(shape, self._draft.config) if shape is not None else None
        self.largest = self._largest(shape, self._draft.config) if shape is not None else None
        self.not_as_asked = self._not_as_asked(shape)
        self._look_for_problems()
        self.changed.emit()

    def _read_model(self) -> None:
        path = self._draft.value("model.path")
        if path == self._asked_model:
            return
        self._asked_model = path
        self.model = self.model_problem = self.samples = None
        if path == SAMPLE and not self._sample_model.ready:
            self.model_words = "Unpacking the sample model, once"
            self._sample_model.make()
            return
        self.model_words = "Checking the model"
        folder = str(self._sample_model.folder) if path == SAMPLE else path
        self._ask("model", self._on_model_checked, self._on_model_refused, reading.CheckModel, folder=folder)

    def _read_start(self) -> None:
        """Against the model, once that is known to be sound."""
        config = self._draft.config
        asked = (config.lora.start_from, config.model.path, config.training.method, self.model is not None)
        if asked == self._asked_start:
            return
        self._asked_start = asked
        self.start = self.start_problem = None
        self.start_shape = self.start_words = ""
        if "start" in self._jobs:
            self._jobs.pop("start").cancel()
        if config.lora.start_from and self.model is not None:
            self.start_words = "Checking the adapter"
            self._ask(
                "start", self._on_start_checked, self._on_start_refused, reading.CheckStart, config=config
            )

    def _read_data(self) -> None:
        data: DataConfig = self._draft.config.data
        files = (data.path, data.format, data.encoding, data.alternatives, tuple(data.map.items()))
        asked = (*files, data.mix, data.recipe)
        if asked == self._asked_data:
            return
        self._asked_data = asked
        self.data = self.data_problem = self.samples = None
        self.data_words = "Reading the data"
        self._ask("data", self._on_data_imported, self._on_data_refused, reading.ImportData, data=data)

    def _count(self) -> None:
        config = self._draft.config
        model = self.model.folder if self.model is not None and self.data is not None else ""
        self.counts.count(self._dataset, model, config.data, config.training.method)

    def _ask(self, what: str, answered: Any, refused: Any, request: Any, **fields: Any) -> None:
        if what in self._jobs:
            self._jobs.pop(what).cancel()
        job = self._reader.ask(request, **fields)
        self._jobs[what] = job
        job.progress.connect(partial(self._on_progress, what))
        job.answered.connect(answered)
        job.refused.connect(refused)

    def _on_progress(self, what: str, progress: reading.Progress) -> None:
        count = f": {progress.done:,} of {progress.total:,}" if progress.total else ""
        words = f"{progress.words}{count}"
        if what == "model":
            self.model_words = words
        elif what == "data":
            self.data_words = words
        self.changed.emit()

    def _on_engine_changed(self) -> None:
        if self._sample_model.making and self.model_words:
            self.model_words = self._engine.words
        self._settle.start()

    def _on_sample_model_made(self) -> None:
        if self._draft.value("model.path") == SAMPLE:
            self._asked_model = None
            self._settle.start()

    def _on_model_checked(self, answer: reading.ModelChecked) -> None:
        self._jobs.pop("model", None)
        self.model, self.model_words = answer.report, ""
        self._settle.start()

    def _on_model_refused(self, problem: Problem) -> None:
        self._jobs.pop("model", None)
        if self.model_words:
            self.model_problem, self.model_words = problem, ""
            self._settle.start()

    def _on_start_checked(self, answer: reading.StartChecked) -> None:
        self._jobs.pop("start", None)
        self.start, self.start_shape, self.start_words = answer.lora, answer.words, ""
        self._settle.start()

    def _on_start_refused(self, problem: Problem) -> None:
        self._jobs.pop("start", None)
        self.start_problem, self.start_words = problem, ""
        self._settle.start()

    def _on_data_imported(self, answer: reading.DataImported) -> None:
        self._jobs.pop("data", None)
        self.data, self._dataset, self.data_words = answer.report, answer.dataset, ""
        self._settle.start()

    def _on_data_refused(self, problem: Problem) -> None:
        self._jobs.pop("data", None)
        self.data_problem, self.data_words = problem, ""
        self._settle.start()

    def _on_samples(self, answer: reading.SamplesSuggested) -> None:
        self._jobs.pop("samples", None)
        self.samples = answer.prompts
        self.changed.emit()

    def _on_no_samples(self, problem: Problem) -> None:
        self._jobs.pop("samples", None)
        self.samples = ()
        self.changed.emit()

    def _read_history(self) -> None:
        self._background.do(partial(read_history, self._preferences.runs_folder), self._on_history)

    def _on_history(self, history: History) -> None:
        self.history = history
        self._settle.start()

    def _on_draft_refused(self) -> None:
        """At once: a click on Start may be what took the focus from the field."""
        self._look_for_problems()
        self.changed.emit()

    def _on_refused(self, error: StudioError) -> None:
        self.refused.emit(str(error))

    # What it costs, and what stands in the way --------------------------------------------------------

    def _device(self) -> tuple[str, int]:
        return room_to_promise(self._engine)

    def _promised(self, shape: ModelShape, config: RunConfig) -> Promise:
        device, free_bytes = self._device()
        return promise(
            shape,
            self.as_run(config),
            device=device,
            free_bytes=free_bytes,
            free_ram_bytes=ram_to_promise(self._engine),
            longest_row=self.counts.counted.lengths.longest if self.counts.counted else None,
            all_tokens=self._tokens_of(config) or None,
            corrected=self._corrected,
        )

    def _tokens_of(self, config: RunConfig) -> int:
        """Of all rows that may be learned; 0 where they aren't counted."""
        if config.data == self._draft.config.data:
            return self.kept().tokens
        return kept_rows(self.lengths, config.data, self.stretches()).tokens

    def _largest(self, shape: ModelShape, config: RunConfig) -> Largest | None:
        device, free_bytes = self._device()
        return largest_that_fits(
            shape,
            self.as_run(config),
            device=device,
            room=free_bytes,
            free_ram=ram_to_promise(self._engine),
            corrected=self._corrected,
        )

    def _not_as_asked(self, shape: ModelShape | None) -> tuple[str, ...]:
        if shape is None or self.promise is None:
            return ()
        card = card_in_use(self._engine)
        return not_as_asked(
            shape,
            self.as_run(),
            self.promise,
            on_card=card is not None,
            multiplies_in_fp8=card is not None and card.multiplies_in_fp8,
        )

    def _look_for_problems(self) -> None:
        config, fields, kept = self.as_trained, self._draft.fields, self.kept()
        free_name = self.history.free_name(self.name)
        self.problems = [
            *train_problems.of_choice("model.path", self.model_problem, "models"),
            *train_problems.of_choice("data.path", self.data_refused, "data"),
            *train_problems.of_start(self.start_problem),
            *train_problems.of_layers(self.as_run(), self.shape(), fields),
            *train_problems.of_kind(config, self.has_source),
            *train_problems.of_refusals(self._draft.refusals, fields),
            *train_problems.of_device(self._engine.held, self._engine.shown_on),
            *train_problems.of_name(self.name, self.name in self.history.names, free_name),
            *train_problems.of_import(self.data, self.skipped_accepted),
            *train_problems.of_rows(config, self.counts.counted, kept, self.dropped_accepted),
            *train_problems.of_memory(config, self.promise, fields, self._smaller_recipe()),
            *train_problems.of_disk(self.disk_bytes(), self._machine.free_bytes),
            *train_problems.of_unusual(config, kept, self._draft.default(RATE), fields),
            *train_problems.of_recipe(self._draft.preset, self.shape(), self.data),
            *train_problems.of_length(config, self.lengths, kept, fields, self.stretches()),
        ]

    def _smaller_recipe(self) -> str:
        """The way on where no settings make the chosen model fit; empty else."""
        promised, shape = self.promise, self.shape()
        if promised is None or shape is None or promised.fits or promised.suggestions:
            return ""
        if promised.lacks_ram:
            return ""  # another model isn't what that asks for
        device, free_bytes = self._device()
        return smaller_recipe(shape, device=device, room=free_bytes)

    def _suggested_name(self) -> str:
        model = Path(self._draft.value("model.path")).name
        words = f"{data_stem(self._draft.config.data)}-{'smollm2' if model == SAMPLE else model}"
        return re.sub(r"[^a-z0-9]+", "-", words.lower())[:60].strip("-") or "run"

    def _command_file(self) -> Path:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", self.name).strip("-")[:60] or "run"
        return places.settings_folder() / "commands" / f"{name}.toml"


def _opened(path: Path, runs_dir: Path) -> RunConfig:
    """A folder to start from that isn't there is told beside its field. Raises: StudioError."""
    config = read_run_config(path)
    is_name = len(Path(config.lora.start_from).parts) == 1
    return with_start_found(config, runs_dir) if is_name else config


def _save(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise StudioError(f"{path} could not be saved: {error.strerror}.") from error
