"""From settings to a run in training: the sample model if it is wanted, the run's folder, the engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.config.presets import sample_preset
from qlora_studio.config.run_config import SAMPLE, RunConfig
from qlora_studio.memory import devices
from qlora_studio.memory.devices import CardReading, card_reading, ram_reading
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.folder import remove_unstarted
from qlora_studio.runs.less_memory import Way
from qlora_studio.state.background import Background
from qlora_studio.state.engine import EngineState
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

SAMPLE_RUN = "sample-run"
ROUND_RAM = 2**28  # bytes


class Launcher(QObject):
    """One run at a time is made ready.

    changed:  `words` is other words; empty: nothing is being made ready
    prepared: RunPrepared: the folder is there, the engine trains
    resumed:  the folder of a run that goes on
    failed:   Problem(message, hint)
    cancelled: the person gave it up; nothing is left of it
    """

    changed = Signal()
    prepared = Signal(object)
    resumed = Signal(object)
    failed = Signal(object)
    cancelled = Signal()

    def __init__(
        self,
        engine: EngineState,
        reader: Reader,
        sample_model: SampleModel,
        preferences: PreferencesState,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._engine = engine
        self._reader = reader
        self._sample_model = sample_model
        self._preferences = preferences
        self._disk = Background("launch-disk", self)
        self._job: Job | None = None
        self._next: Callable[[], None] | None = None  # once the sample model is there
        self.words = ""
        self.name = ""
        self._ways: tuple[Way, ...] = ()  # to take less memory, of a run that is to go on
        self.folder: Path | None = None  # of the run that is to go on; None for a new one
        sample_model.made.connect(self._on_sample_model_made)
        sample_model.failed.connect(self._fail)
        engine.changed.connect(self._on_engine_changed)

    @property
    def busy(self) -> bool:
        """Whether a run is being made ready."""
        return bool(self.words)

    def start(self, config: RunConfig, name: str, accept_skipped: bool = False) -> None:
        """Ends in `prepared` or `failed`."""
        self.name, self.folder = name, None

        def prepare() -> None:
            self._now("Reading the data")
            self._have_engine_ready()
            device, free_bytes = device_and_room(self._engine)
            self._watch(
                self._reader.ask(
                    reading.PrepareRun,
                    config=config,
                    name=name,
                    runs_dir=str(self._preferences.runs_folder),
                    accept_skipped=accept_skipped,
                    device=device,
                    device_memory_bytes=free_bytes,
                    device_total_bytes=_total_bytes(self._engine),
                )
            )

        if config.model.path == SAMPLE and not self._sample_model.ready:
            self._now("Unpacking the sample model, once")
            self._next = prepare
            self._sample_model.make()
        else:
            prepare()

    def start_sample_run(self) -> None:
        """The bundled model on the bundled data. Ends in `prepared` or `failed`."""
        self.start(sample_preset().config, SAMPLE_RUN)

    def resume(self, run: Path, name: str, ways: tuple[Way, ...] = ()) -> None:
        """Checks that nothing changed, then trains on. Ends in `resumed` or `failed`.

        ways: to take less memory from now on
        """
        self.name, self.folder, self._ways = name, run, ways
        self._now("Checking the run's files")
        self._have_engine_ready()
        self._watch(self._reader.ask(reading.CheckResume, run=str(run), ways=ways))

    def cancel(self) -> None:
        """Nothing has been started yet; what the reader or the engine began for it is cleared away."""
        if not self.busy:
            return
        if self._next is not None:
            self._next = None
            self._sample_model.give_up()
        if self._job is not None:
            self._job.cancel()
            self._job = None
        self._now("")
        self.cancelled.emit()

    def _have_engine_ready(self) -> None:
        """It loads its libraries while the reader is at work."""
        # In a turn of its own: to start the engine takes time.
        QTimer.singleShot(0, self, lambda: self._engine.expect_training() if self.busy else None)

    def _watch(self, job: Job) -> None:
        self._job = job
        job.progress.connect(self._on_progress)
        job.answered.connect(self._on_answered)
        job.refused.connect(self._fail)
        job.too_late.connect(self._on_too_late)

    def _on_progress(self, progress: reading.Progress) -> None:
        count = f" {progress.done:,} of {progress.total:,}" if progress.total else ""
        self._now(f"{progress.words}{count}")

    def _on_answered(self, answer: reading.Answer) -> None:
        self._job = None
        self._now("")
        if isinstance(answer, reading.RunPrepared):
            self._engine.train(Path(answer.run), self.name)
            # In a turn of its own: to start the engine and to show the run is more than a tenth of a second.
            QTimer.singleShot(0, self, partial(self.prepared.emit, answer))
        elif isinstance(answer, reading.ResumeReady):
            self._engine.train(Path(answer.run), self.name, self._ways)
            self.resumed.emit(Path(answer.run))

    def _on_too_late(self, answer: reading.Answer) -> None:
        """The folder of a run that was given up while it was being made: nobody has seen it yet."""
        if isinstance(answer, reading.RunPrepared):
            self._disk.do(partial(remove_unstarted, Path(answer.run)), lambda _: None)

    def _on_sample_model_made(self) -> None:
        following, self._next = self._next, None
        if following is not None:
            following()

    def _on_engine_changed(self) -> None:
        if self._next is not None and self._sample_model.making:
            self._now(self._engine.words)

    def _fail(self, problem: Problem) -> None:
        if self.busy:
            self._job = self._next = None
            self._now("")
            self.failed.emit(problem)

    def _now(self, words: str) -> None:
        if words != self.words:
            self.words = words
            self.changed.emit()


def device_name(engine: EngineState) -> str:
    """As the engine calls it, which what was measured is kept under."""
    return devices.device_name(device_and_room(engine)[0])


def room_to_promise(engine: EngineState) -> tuple[str, int]:
    """As `device_and_room`, in steps of RAM: it moves all the time, and no promise should flicker with it."""
    device, free_bytes = device_and_room(engine)
    return device, free_bytes if device == "cuda" else free_bytes // ROUND_RAM * ROUND_RAM


def ram_to_promise(engine: EngineState) -> int | None:
    """Free bytes of RAM beside a card, in steps as there; None without a card."""
    if card_in_use(engine) is None:
        return None
    return ram_reading().free_bytes // ROUND_RAM * ROUND_RAM


def device_and_room(engine: EngineState) -> tuple[str, int]:
    """ "cuda" | "cpu", and its free bytes. What the engine said counts; without it, what the driver says."""
    card = card_in_use(engine)
    return ("cuda", card.free_bytes) if card is not None else ("cpu", ram_reading().free_bytes)


def _total_bytes(engine: EngineState) -> int:
    """All the memory that the card has, or the machine."""
    return (card_in_use(engine) or ram_reading()).total_bytes


def card_in_use(engine: EngineState) -> CardReading | None:
    """The card that runs are computed on; None where that is the processor."""
    on_cpu = engine.device is not None and engine.device.device == "cpu"  # a torch without CUDA
    return None if on_cpu else card_reading()
