"""What the Train page shows: the chosen model and data, what they cost, and what stands in the way."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import SAMPLE, DataConfig
from qlora_studio.data.report import ImportReport
from qlora_studio.memory.disk import run_bytes
from qlora_studio.memory.measured import measured_speed
from qlora_studio.memory.promise import Promise, promise
from qlora_studio.models.report import ModelReport
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.engine import EngineState
from qlora_studio.state.launch import device_and_room, device_name
from qlora_studio.state.machine import MachineState
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

SAMPLE_SHAPE = "smollm2-135m"
FILL = 0.96  # of a packed row that is tokens, on the sample data at 256
FEW_UPDATES = 50  # fewer than this rarely teaches anything
MOST_SKIPPED = 0.01


@dataclass(frozen=True)
class Mend:
    """A button under a problem: the settings it changes, or the page it opens."""

    words: str
    changes: dict[str, Any] = field(default_factory=dict)
    page: str = ""
    accepts_skipped: bool = False


@dataclass(frozen=True)
class TrainProblem:
    """Before the start: `blocks` it, or only warns. `key`: the setting that it stands under."""

    words: str
    blocks: bool
    key: str = ""
    mends: tuple[Mend, ...] = ()


class TrainState(QObject):
    """changed: anything of the below is another one."""

    changed = Signal()

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
        self.model: ModelReport | None = None
        self.model_problem: Problem | None = None
        self.model_words = ""  # while it is being checked
        self.data: ImportReport | None = None
        self.data_problem: Problem | None = None
        self.data_words = ""
        self.counted: reading.TokensCounted | None = None
        self.lengths: np.ndarray[Any, np.dtype[np.int32]] | None = None  # [rows, 2]: tokens, learned
        self.counting_words = ""
        self.promise: Promise | None = None
        self.problems: list[TrainProblem] = []
        self._dataset = ""
        self._asked_model = self._asked_data = self._asked_count = None  # type: object
        self._jobs: dict[str, Job] = {}
        self._open = False
        self._settle = QTimer(self, interval=50, singleShot=True)
        self._settle.timeout.connect(self._on_settled)
        draft.changed.connect(self._settle.start)
        machine.changed.connect(self._settle.start)
        sample_model.made.connect(self._on_sample_model_made)
        sample_model.failed.connect(self._on_model_refused)

    # What the page asks ----------------------------------------------------------------------------

    def open(self) -> None:
        """The page is looked at: from now on model and data are read."""
        self._open = True
        self._on_settled()

    @property
    def waits_for(self) -> str:
        """Why the start isn't possible yet, in words; empty where it is."""
        if self.model_words or self.data_words:
            return self.model_words or self.data_words
        first = next((problem for problem in self.problems if problem.blocks), None)
        return first.words if first else ""

    @property
    def skipped_accepted(self) -> bool:
        """Whether somebody looked at what was skipped of these very bytes, here or on the Data page."""
        return self.data is not None and self.data.sha256 in self._draft.skipped_accepted

    def accept_skipped(self) -> None:
        """Train although more was skipped than usual."""
        if self.data is not None:
            self._draft.skipped_accepted.add(self.data.sha256)
        self._settle.start()

    def shape(self) -> ModelShape | None:
        """Of the chosen model; the bundled one's is known before it is unpacked."""
        if self.model is not None:
            return self.model.shape
        return known_shape(SAMPLE_SHAPE) if self._draft.value("model.path") == SAMPLE else None

    def kept_rows(self) -> tuple[int, int, int]:
        """Rows that are trained on, rows too long, and tokens a pass."""
        if self.lengths is None:
            return 0, 0, 0
        tokens, learned = self.lengths[:, 0], self.lengths[:, 1]
        seq_len = self._draft.value("data.seq_len")
        longer = tokens > seq_len
        cut = self._draft.value("data.too_long") == "truncate"
        kept = (learned > 0) & (~longer | cut)
        return int(kept.sum()), int(longer.sum()), int(np.minimum(tokens[kept], seq_len).sum())

    def updates(self) -> int:
        """How many the run will make, about."""
        config = self._draft.config
        if config.training.steps:
            return config.training.steps
        rows, _, tokens = self.kept_rows()
        if not rows:
            return 0
        held_out = config.data.validation if isinstance(config.data.validation, float) else 0.0
        share = 1.0 - held_out
        packed = tokens * share / (config.data.seq_len * FILL) if config.data.packing else rows * share
        per_update = config.training.batch_size * config.training.gradient_accumulation
        return max(1, math.ceil(packed / per_update * config.training.epochs))

    def seconds(self) -> float | None:
        """How long that takes on this machine; None before anything like it was measured."""
        shape = self.shape()
        if shape is None or not self.updates():
            return None
        config = self._draft.config
        speed = measured_speed(device_name(self._engine), shape, config.model.quantization)
        if speed is None:
            return None
        per_update = config.training.batch_size * config.training.gradient_accumulation * config.data.seq_len
        return self.updates() * per_update * FILL / speed

    def disk_bytes(self) -> int | None:
        """What the run will take on disk."""
        shape = self.shape()
        if shape is None:
            return None
        return run_bytes(shape, self._draft.config, device_and_room(self._engine)[0])

    def trained_parameters(self) -> int:
        """Of the adapter: r x (in + out) for each layer that gets one."""
        shape = self.shape()
        if shape is None:
            return 0
        targets = self._draft.value("lora.target_modules")
        each = [
            rows + columns
            for name, rows, columns in shape.linears
            if targets == "all-linear" or name.rpartition(".")[2] in targets
        ]
        return int(self._draft.value("lora.r") * sum(each) * shape.layers)

    def suggested_name(self) -> str:
        """From data and model: `gsm8k-sample-smollm2`."""
        data = Path(self._draft.value("data.path")).stem
        model = Path(self._draft.value("model.path")).name
        words = f"{'sample' if data == SAMPLE else data}-{'smollm2' if model == SAMPLE else model}"
        return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:60] or "run"

    # What is read ----------------------------------------------------------------------------------

    def _on_settled(self) -> None:
        if self._open:
            self._read_model()
            self._read_data()
            self._count()
        self._promise()
        self._look_for_problems()
        self.changed.emit()

    def _read_model(self) -> None:
        path = self._draft.value("model.path")
        if path == self._asked_model:
            return
        self._asked_model = path
        self.model = self.model_problem = None
        self.counted = self.lengths = self._asked_count = None
        if path == SAMPLE and not self._sample_model.ready:
            self.model_words = "Unpacking the sample model, once"
            self._sample_model.make()
            return
        self.model_words = "Checking the model"
        folder = str(self._sample_model.folder) if path == SAMPLE else path
        self._ask("model", self._on_model_checked, self._on_model_refused, reading.CheckModel, folder=folder)

    def _read_data(self) -> None:
        data: DataConfig = self._draft.config.data
        asked = (data.path, data.format, tuple(data.map.items()))
        if asked == self._asked_data:
            return
        self._asked_data = asked
        self.data = self.data_problem = None
        self.counted = self.lengths = self._asked_count = None
        self.data_words = "Reading the data"
        self._ask("data", self._on_data_imported, self._on_data_refused, reading.ImportData, data=data)

    def _count(self) -> None:
        if self.model is None or self.data is None:
            return
        config = self._draft.config
        asked = (self.model.folder, self._dataset, config.data.train_on, config.training.method)
        if asked == self._asked_count:
            return
        self._asked_count = asked
        self.counting_words = "Counting tokens"
        self._ask(
            "count",
            self._on_counted,
            self._on_count_refused,
            reading.CountTokens,
            dataset=self._dataset,
            model=self.model.folder,
            data=config.data,
            method=config.training.method,
        )

    def _ask(self, what: str, answered: Any, refused: Any, request: Any, **fields: Any) -> None:
        if what in self._jobs:
            self._jobs.pop(what).cancel()
        job = self._reader.ask(request, **fields)
        self._jobs[what] = job
        job.answered.connect(answered)
        job.refused.connect(refused)

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

    def _on_data_imported(self, answer: reading.DataImported) -> None:
        self._jobs.pop("data", None)
        self.data, self._dataset, self.data_words = answer.report, answer.dataset, ""
        self._settle.start()

    def _on_data_refused(self, problem: Problem) -> None:
        self._jobs.pop("data", None)
        self.data_problem, self.data_words = problem, ""
        self._settle.start()

    def _on_counted(self, answer: reading.TokensCounted) -> None:
        self._jobs.pop("count", None)
        self.counted, self.counting_words = answer, ""
        self.lengths = np.load(answer.lengths.file, mmap_mode="r", allow_pickle=False)
        self._settle.start()

    def _on_count_refused(self, problem: Problem) -> None:
        self._jobs.pop("count", None)
        self.counting_words = ""
        self.data_problem = problem
        self._settle.start()

    def _promise(self) -> None:
        shape = self.shape()
        if shape is None:
            self.promise = None
            return
        device, free_bytes = device_and_room(self._engine)
        self.promise = promise(shape, self._draft.config, device=device, free_bytes=free_bytes)

    # What stands in the way -------------------------------------------------------------------------

    def _look_for_problems(self) -> None:
        self.problems = [
            *self._problems_of_choice(),
            *self._problems_of_data(),
            *self._problems_of_room(),
            *self._problems_of_length(),
        ]

    def _problems_of_choice(self) -> list[TrainProblem]:
        found = []
        if self.model_problem is not None:
            found.append(_blocking(self.model_problem, "model.path", Mend("Choose again", page="models")))
        if self.data_problem is not None:
            found.append(_blocking(self.data_problem, "data.path", Mend("Choose again", page="data")))
        if self._engine.training and self._engine.run is not None:
            words = f"{self._engine.run.name} is training and holds the device."
            found.append(TrainProblem(words, blocks=True, mends=(Mend("Look at it", page="monitor"),)))
        return found

    def _problems_of_data(self) -> list[TrainProblem]:
        report = self.data
        if report is None:
            return []
        found = []
        if report.skipped > MOST_SKIPPED * report.rows_in and not self.skipped_accepted:
            reasons = ", ".join(f"{problem.count:,} {problem.reason}" for problem in report.problems[:2])
            words = f"{report.skipped:,} of {report.rows_in:,} rows were skipped: {reasons}."
            mends = (Mend("Show them", page="data"), Mend("Train without them", accepts_skipped=True))
            found.append(TrainProblem(words, blocks=True, mends=mends))
        if self.lengths is not None:
            rows, longer, _ = self.kept_rows()
            found += self._problems_of_rows(rows, longer)
        return found

    def _problems_of_rows(self, rows: int, longer: int) -> list[TrainProblem]:
        assert self.counted is not None
        seq_len, longest = self._draft.value("data.seq_len"), self.counted.lengths.longest
        raised = Mend(f"Raise to {_rounded(longest):,}", {"data.seq_len": _rounded(longest)})
        too_long = self._draft.value("data.too_long")
        found = []
        if rows == 0:
            words = f"No row has a token to learn within {seq_len:,} tokens."
            found.append(TrainProblem(words, blocks=True, key="data.seq_len", mends=(raised,)))
        elif longer and too_long == "stop":
            words = f"{longer:,} rows are longer than {seq_len:,} tokens."
            mends = (raised, Mend("Drop them", {"data.too_long": "drop"}))
            found.append(TrainProblem(words, blocks=True, key="data.seq_len", mends=mends))
        elif longer:
            fate = "will be cut" if too_long == "truncate" else "will not be trained on"
            words = f"{longer:,} rows are longer than {seq_len:,} tokens and {fate}."
            found.append(TrainProblem(words, blocks=False, key="data.seq_len", mends=(raised,)))
        nothing = self.counted.lengths.nothing_to_learn
        if nothing and rows:
            words = f"{nothing:,} rows have no token to learn; they are left out."
            found.append(TrainProblem(words, blocks=False, mends=(Mend("Show", page="data"),)))
        return found

    def _problems_of_room(self) -> list[TrainProblem]:
        found = []
        promised = self.promise
        if promised is not None and not promised.fits:
            mends = tuple(Mend(item.words, dict(item.changes)) for item in promised.suggestions[:3])
            found.append(TrainProblem(promised.words, blocks=True, mends=mends))
        needed, free = self.disk_bytes(), self._machine.free_bytes
        if needed is not None and free is not None and needed > free:
            words = f"The runs disk has {free / 1e9:.1f} GB free; this run needs {needed / 1e9:.1f}."
            found.append(
                TrainProblem(words, blocks=True, mends=(Mend("Change the folder", page="settings"),))
            )
        return found

    def _problems_of_length(self) -> list[TrainProblem]:
        updates = self.updates()
        if not 0 < updates < FEW_UPDATES or self.lengths is None:
            return []
        training = self._draft.config.training
        words = f"The run makes only about {updates:,} updates; {FEW_UPDATES} or more teach better."
        mends = []
        if training.gradient_accumulation > 1:
            fewer = max(1, training.gradient_accumulation * updates // FEW_UPDATES)
            mends.append(Mend(f"Accumulate {fewer}", {"training.gradient_accumulation": fewer}))
        elif training.batch_size > 1:
            fewer = max(1, training.batch_size * updates // FEW_UPDATES)
            mends.append(Mend(f"{fewer} rows per step", {"training.batch_size": fewer}))
        return [TrainProblem(words, blocks=False, mends=tuple(mends))]


def _blocking(problem: Problem, key: str, mend: Mend) -> TrainProblem:
    return TrainProblem(f"{problem.message} {problem.hint}".strip(), blocks=True, key=key, mends=(mend,))


def _rounded(tokens: int) -> int:
    """To the next 64."""
    return -(-tokens // 64) * 64
