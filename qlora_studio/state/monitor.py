"""What the Monitor shows of one run: its points, how it stands, what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.config.toml_file import with_changes
from qlora_studio.errors import StudioError
from qlora_studio.protocol import events, reading
from qlora_studio.protocol.reading import RunPrepared
from qlora_studio.runs.folder import Run
from qlora_studio.runs.less_memory import WAYS
from qlora_studio.runs.metrics_search import rows_of_step
from qlora_studio.runs.run_record import RunRecord
from qlora_studio.runs.samples import Sample
from qlora_studio.state import run_reading
from qlora_studio.state.background import Background
from qlora_studio.state.curves import SMOOTHING, Curves, Points, no_points
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.engine import EngineState
from qlora_studio.state.launch import Launcher
from qlora_studio.state.machine import MachineState
from qlora_studio.state.named_rows import NamedRows, longest_first
from qlora_studio.state.points_table import write_csv
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Reader
from qlora_studio.state.run_end import Action, Ending, autopsy, changes_for, ending
from qlora_studio.state.run_figures import (
    RunFigures,
    figures_of_sketch,
    last_smoothed,
    run_figures,
    seconds_left,
    total_steps,
)

REPAINT_MS = 100
ELSEWHERE_MS = 1000  # between two looks at a run that another window trains


@dataclass(frozen=True)
class CardPoint:
    """One reading of the card, taken while `step` was the last one."""

    step: int
    temperature_c: int | None
    power_w: float | None


class MonitorState(QObject):
    """Follows the run that is open: from its folder, and while it trains here also from the engine's events.

    changed: the run, how it stands, its samples or what is going on in words
    grown:   `points` has more; at most ten times a second
    saved:   the file that was asked for
    refused: why it could not be saved
    """

    changed = Signal()
    grown = Signal()
    saved = Signal(object)
    refused = Signal(str)

    spike_step: int | None  # whose rows are looked at
    spike_rows: tuple[int, ...]  # training rows, from 0; empty until they are read
    spike_tokens: tuple[int, ...]  # of these rows; empty until somebody asked how long they are
    _measuring: int | None  # the spike whose rows are to be measured once they are known

    def __init__(
        self,
        engine: EngineState,
        launcher: Launcher,
        machine: MachineState,
        draft: RunDraft,
        preferences: PreferencesState,
        reader: Reader,
        parent: QObject | None = None,
    ) -> None:
        """reader: for what a person waits for."""
        super().__init__(parent)
        self._engine = engine
        self._launcher = launcher
        self._machine = machine
        self._draft = draft
        self._preferences = preferences
        self._reader = reader
        self._reading = Background("monitor-reading", self)
        self._apart = Background("monitor-files", self)  # what may take long and nothing waits for
        self._repaint = QTimer(self, interval=REPAINT_MS, singleShot=True)
        self._repaint.timeout.connect(self._flush)
        self._look = QTimer(self, interval=ELSEWHERE_MS)
        self._look.timeout.connect(self._look_elsewhere)
        self.smoothing = SMOOTHING
        self.awaiting = False  # the run that is being made ready
        self._forget(None)
        self._bind()

    # What is open -----------------------------------------------------------------------------------

    def open(self, what: Path | None) -> None:
        """A run folder, live or not; None: the run that is being made ready, or the one that trains."""
        if what is None:
            self.awaiting = self._launcher.busy
            what = None if self.awaiting else self._engine.run or self.folder
        else:
            self.awaiting = False
        if what is None:
            self._forget(None)
            self.grown.emit()
            self.changed.emit()
        elif what != self.folder or not self.live:
            self._load(what)

    def reload(self) -> None:
        """Looks at the folder again."""
        if self.folder is not None:
            self._load(self.folder)

    @property
    def live(self) -> bool:
        """It trains here."""
        return self._live

    @property
    def elsewhere(self) -> bool:
        """Another window or a terminal trains it: it can be looked at only (R8)."""
        run = self.run
        return not self._live and run is not None and run.locked and run.state.state == "running"

    @property
    def name(self) -> str:
        """As the person calls it."""
        if self.awaiting:
            return self._launcher.name
        if self._live:
            return self._engine.run_name
        if self.run is not None:
            return self.run.name
        return self.folder.name if self.folder is not None and not self.loading else ""

    @property
    def words(self) -> str:
        """What is going on before there is anything to draw."""
        if self.preparing:
            return self._launcher.words
        if self.loading:
            return "Reading all steps; a part of them is drawn" if len(self.points) else "Reading the run"
        if self._live and not len(self.points):
            return self._engine.words
        return ""

    @property
    def preparing(self) -> bool:
        """A run is being made ready, or this one is checked before it goes on; `cancel` gives that up."""
        return (self.awaiting and self._launcher.busy) or self.resuming

    @property
    def resuming(self) -> bool:
        """Its files are being checked; then it goes on."""
        return self._launcher.busy and self.folder is not None and self._launcher.folder == self.folder

    @property
    def ending(self) -> Ending | None:
        """Why it stands still; None while it trains."""
        if self.run is None or self._live or self.loading or self.resuming:
            return None
        if self.elsewhere:
            words = "Another window or a terminal trains this run. It can be looked at here."
            return Ending("accent", words)
        if self.run.newer or self.run.unknown_keys:
            words = "A newer version wrote this run. It can be looked at, not continued."
            return Ending("accent", words)
        return ending(self.run, self.resume_step, died=self._died, is_first=self._is_first)

    @property
    def memory_words(self) -> str:
        """What was held when memory ran out; else what runs otherwise than asked, to take less of it."""
        if self._live:
            return " ".join(self._notes)
        if self.run is None or self.loading:
            return ""
        less = self.run.less_memory
        return autopsy(self.run) or " ".join(less.words(self.run.record) if less is not None else ())

    @property
    def why_no_resume(self) -> str:
        """Empty where it can go on."""
        if self._engine.held:
            return self._engine.held
        if self._launcher.busy:
            return "A run is being made ready."
        if self.verifying:
            return "Verifying the newest checkpoint."
        return self.why_not_sound

    @property
    def figures(self) -> RunFigures:
        """As of the last step."""
        return figures_of_sketch(self.points) if self.sketched else run_figures(self.points, self._record)

    @property
    def smoothed_loss(self) -> float | None:
        """As of the last step."""
        return last_smoothed(self.points)

    @property
    def _record(self) -> RunRecord | None:
        return self.run.record if self.run else None

    @property
    def seconds_left(self) -> float | None:
        """Until its last step is made."""
        return None if self.sketched else seconds_left(self.points, total_steps(self.points, self._record))

    @property
    def on_card(self) -> bool:
        """Whether memory is a card's, not the process's; without a run, as the next one would have it."""
        if self.run is not None:
            return self.run.record.device != "cpu"
        device = self._engine.device
        return self._machine.card is not None and (device is None or device.device != "cpu")

    @property
    def limit_bytes(self) -> int | None:
        """Of the device the run trains on, as the run told; else of this machine's, if it is that one."""
        if self.points.device_bytes:
            return self.points.device_bytes
        if self.run is None or self.run.record.device == "cpu":
            return self._ram_bytes
        card = self._machine.card
        same = card is not None and self.run.record.device_name in ("", card.name)
        return card.total_bytes if card is not None and same else None

    # What is asked ----------------------------------------------------------------------------------

    def pause(self) -> None:
        """Saves, then the engine ends and the device is free."""
        if self._live:
            self._engine.pause_training()

    def stop(self) -> None:
        """Saves, evaluates, writes the adapter."""
        if self._live:
            self._engine.stop_training()

    def save_now(self) -> None:
        """A checkpoint after the step in hand."""
        if self._live:
            self._engine.save_now()

    def resume(self, action: Action = Action.RESUME) -> None:
        """From the newest sound checkpoint, and with what the action does to take less memory."""
        if self.folder is not None and not self.why_no_resume:
            self.problem = ""
            ways = tuple(way for way in WAYS if way == action.value)
            self._launcher.resume(self.folder, self.name, ways)

    def cancel(self) -> None:
        """Before anything is trained: as if it had never been asked."""
        if self.preparing:
            self._launcher.cancel()

    def look_at_spike(self, step: int) -> None:
        """Reads which rows it computed; `spike_rows` has them then."""
        if self.folder is not None and self.spike_step != step:
            self.spike_step, self.spike_rows, self.spike_tokens = step, (), ()
            look = partial(rows_of_step, self.folder, step)
            self._apart.do(look, partial(self._on_spike_rows, self.folder, step))

    def _on_spike_rows(self, folder: Path, step: int, rows: tuple[int, ...]) -> None:
        if (folder, step) == (self.folder, self.spike_step):
            self.spike_rows = rows
            if self._measuring == step:
                self._ask_lengths()
            self.changed.emit()

    def measure_spike(self, step: int) -> None:
        """The same, and how long its rows are: a reader opens the run's rows for that."""
        self.look_at_spike(step)
        self._measuring = step
        if self.spike_rows:
            self._ask_lengths()

    def _ask_lengths(self) -> None:
        self._measuring = None
        if self.folder is not None and self.spike_step is not None and not self.spike_tokens:
            job = self._reader.ask(reading.ShowRowLengths, run=str(self.folder), rows=self.spike_rows)
            job.answered.connect(partial(self._on_lengths, self.folder, self.spike_step))

    def _on_lengths(self, folder: Path, step: int, answer: reading.RowLengthsShown) -> None:
        if (folder, step) == (self.folder, self.spike_step):
            self.spike_tokens = answer.tokens
            self.changed.emit()

    @property
    def named_rows(self) -> NamedRows | None:
        """Of the spike that is looked at, for the Data page; the longest first, where that is known."""
        if self.run is None or not self.spike_rows or self.spike_step is None:
            return None
        count = len(self.spike_rows)
        words = f"the {f'{count:,} rows' if count > 1 else 'row'} of step {self.spike_step:,}"
        rows = tuple(row for row, _ in longest_first(self.spike_rows, self.spike_tokens))
        record = self.run.record
        return NamedRows(record.config.data, rows, f"{words} of {self.name}", record.hashes.data)

    def change_for_next(self, action: Action) -> None:
        """The settings of this run, with what the action changes of them, into the draft of the next one."""
        if self.run is not None:
            self._draft.replace(with_changes(self.run.record.config, changes_for(action, self.run)))

    def set_smoothing(self, weight: float) -> None:
        """0 to 0.999."""
        self.smoothing = weight
        if self._curves is not None:
            self._work(partial(run_reading.smooth, self._curves, weight))

    def save_table(self, points: Points, first: int, last: int, path: Path) -> None:
        """Places first .. last - 1 of `points` as CSV. Ends in `saved` or `refused`."""
        write = partial(write_csv, points, first, last, path)
        self._apart.do(write, self.saved.emit, lambda error: self.refused.emit(str(error)))

    # The folder -------------------------------------------------------------------------------------

    def _forget(self, folder: Path | None) -> None:
        self.folder = folder
        self.run: Run | None = None
        self.points = no_points()
        self.sketched = False
        self.samples: tuple[Sample, ...] = ()
        self.card_points: list[CardPoint] = []
        self.spike_step, self.spike_rows, self.spike_tokens = None, (), ()
        self._measuring = None
        self.resume_step: int | None = None
        self.verifying = False
        self.loading = False
        self.problem = ""
        self.why_not_sound = ""
        self._live = False
        self._died = ""
        self._is_first = False
        self._notes: tuple[str, ...] = ()  # of the engine, on the sitting that goes on
        self._curves: Curves | None = None
        self._heard: list[events.EngineEvent] = []
        self._busy = False
        self._ram_bytes: int | None = None
        self._look.stop()

    def _load(self, folder: Path) -> None:
        if folder != self.folder:
            self._forget(folder)
            self._reading.do(partial(run_reading.sketch, folder, self.smoothing), self._on_sketched)
            self.grown.emit()
        self._live = self._engine.run == folder
        self.loading = True
        self._curves = None
        self._reading.do(partial(run_reading.load, folder, self.smoothing), self._on_loaded)
        self.changed.emit()

    def _on_sketched(self, found: tuple[Path, Points | None]) -> None:
        folder, points = found
        if points is not None:  # the page, which is just being shown, comes first
            QTimer.singleShot(REPAINT_MS // 2, self, partial(self._show_sketch, folder, points))

    def _show_sketch(self, folder: Path, points: Points) -> None:
        if folder == self.folder and self.loading:
            self.points, self.sketched = points, True
            self.grown.emit()

    def _on_loaded(self, loaded: run_reading.Loaded) -> None:
        if loaded.folder != self.folder:
            return  # another run was opened meanwhile
        self.loading = self.sketched = False
        self.run, self.problem = loaded.run, loaded.problem
        self.points, self.samples, self._curves = loaded.points, loaded.samples, loaded.curves
        self._busy = False
        self._ram_bytes = loaded.ram_bytes
        if not self._live:
            self._verify()
        if self.elsewhere:
            self._look.start()
        else:
            self._look.stop()
        self._repaint.start()
        self.grown.emit()
        self.changed.emit()

    def _verify(self) -> None:
        """Reads every byte of the newest checkpoint: only what is sound is offered (R2)."""
        run = self.run
        if run is None or self.elsewhere or run.state.state == "finished":
            return
        self.verifying = True
        self._apart.do(partial(run_reading.resume_step, run.folder), self._on_verified, self._on_not_verified)

    def _on_verified(self, found: tuple[Path, int]) -> None:
        folder, step = found
        if folder == self.folder:
            self.verifying, self.resume_step = False, step
            self.changed.emit()

    def _on_not_verified(self, error: StudioError) -> None:
        self.verifying, self.why_not_sound = False, str(error)
        self.changed.emit()

    def _look_elsewhere(self) -> None:
        if self._curves is not None and not self._busy and self.folder is not None:
            self._work(partial(run_reading.follow, self._curves, self.folder))

    # The engine -------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._engine.heard.connect(self._on_heard)
        self._engine.changed.connect(self.changed)
        self._engine.ended.connect(self._on_engine_ended)
        self._launcher.changed.connect(self.changed)
        self._launcher.prepared.connect(self._on_prepared)
        self._launcher.resumed.connect(self._on_resumed)
        self._launcher.failed.connect(self._on_launch_failed)
        self._launcher.cancelled.connect(self._on_cancelled)
        self._machine.changed.connect(self._on_machine_changed)

    def _on_prepared(self, prepared: RunPrepared) -> None:
        if self.awaiting:
            self.open(Path(prepared.run))

    def _on_resumed(self, run: Path) -> None:
        if run == self.folder:
            self._died = self.problem = ""
            self._load(run)

    def _on_launch_failed(self, problem: events.Problem) -> None:
        if self.awaiting or (self.folder is not None and self._launcher.folder == self.folder):
            self.awaiting = False
            self.problem = f"{problem.message} {problem.hint}".strip()
            self.changed.emit()

    def _on_cancelled(self) -> None:
        if self.awaiting:
            self.awaiting = False
            self._forget(None)
        self.changed.emit()

    def _on_heard(self, event: events.EngineEvent) -> None:
        if not self._live:
            return
        match event:
            case events.ModelLoaded():
                self._notes = event.notes
                self.changed.emit()
            case events.SampleReady():
                self._take_sample(event)
            case events.RunFinished() | events.RunFailed():
                self._heard.append(event)
                self._note_first(event)
                self._flush()
                self._end()
                return
            case _:
                self._heard.append(event)
        if not self._repaint.isActive():
            self._repaint.start()

    def _note_first(self, event: events.RunFinished | events.RunFailed) -> None:
        """The first adapter of all is worth a word of its own."""
        done = isinstance(event, events.RunFinished) and (event.adapter or event.model) is not None
        if done and not self._preferences.values.first_run_done:
            self._is_first = True
            self._preferences.set("first_run_done", True)

    def _take_sample(self, event: events.SampleReady) -> None:
        sample = Sample(
            step=event.step,
            index=event.index,
            prompt=event.prompt,
            reply=event.reply,
            tokens=event.tokens,
            time=event.time,
        )
        kept = (old for old in self.samples if (old.step, old.index) < (sample.step, sample.index))
        self.samples = (*kept, sample)
        self.changed.emit()

    def _on_engine_ended(self, reason: str) -> None:
        if self._live:
            self._died = reason
            self._end()

    def _end(self) -> None:
        """From now on the folder tells everything."""
        self._live = False
        if self.folder is not None:
            self._load(self.folder)

    def _flush(self) -> None:
        if self._curves is None or self._busy or not self._heard:
            return  # what was heard waits
        heard, self._heard = self._heard, []
        self._work(partial(run_reading.take, self._curves, heard))

    def _work(self, work: Callable[[], run_reading.Grown]) -> None:
        self._busy = True
        self._reading.do(work, self._on_points, self._on_unreadable)

    def _on_points(self, found: run_reading.Grown) -> None:
        if found.curves is not self._curves:
            return
        self._busy = False
        self.points = found.points
        if self._heard and not self._repaint.isActive():
            self._repaint.start()
        self.grown.emit()
        if not found.locked and self.elsewhere:
            self.reload()

    def _on_unreadable(self, error: StudioError) -> None:
        self._busy = False
        self.problem = str(error)
        self.changed.emit()

    def _on_machine_changed(self) -> None:
        card = self._machine.card
        if self._live and card is not None and len(self.points):
            reading = CardPoint(self.points.last_step, card.temperature_c, card.power_w)
            self.card_points.append(reading)
