"""Runs that differ in one thing, made one after another by the window, and the table that comes of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.places import sweeps_folder
from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.errors import StudioError
from qlora_studio.protocol import events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.protocol.sweep_plan import new_sweep
from qlora_studio.runs.sweep import (
    SWEEP_FILE,
    Found,
    Row,
    Sweep,
    found,
    read_sweep,
    save_results,
    table,
    unfinished,
    with_run,
    write_sweep,
)
from qlora_studio.state.background import Background
from qlora_studio.state.engine import EngineState
from qlora_studio.state.launch import Launcher
from qlora_studio.state.preferences import PreferencesState


@dataclass(frozen=True)
class Opened:
    """A sweep, where it lies, and what its runs have measured."""

    folder: Path
    sweep: Sweep
    results: tuple[Found, ...]

    @property
    def rows(self) -> list[Row]:
        """A row for each label."""
        return table(self.sweep, self.results)

    @property
    def finished(self) -> int:
        """How many runs are."""
        return sum(item.state == "finished" for item in self.results)

    @property
    def next_place(self) -> int | None:
        """Of the run to be made next; None where all are finished."""
        return next(iter(unfinished(self.results)), None)


class SweepState(QObject):
    """changed: anything of the below is another one."""

    changed = Signal()

    def __init__(
        self,
        engine: EngineState,
        launcher: Launcher,
        preferences: PreferencesState,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._engine = engine
        self._launcher = launcher
        self._preferences = preferences
        self._background = Background("sweeps", self)
        self._place: int | None = None  # of the run that is being made
        self._starting = False  # that run is not in training yet
        self.opened: Opened | None = None  # the newest, or the one that is being made
        self.running = False
        self.problem: Problem | None = None  # why it stopped
        launcher.prepared.connect(self._on_prepared)
        launcher.resumed.connect(self._on_resumed)
        launcher.failed.connect(self._on_not_started)
        launcher.cancelled.connect(self._on_cancelled)
        engine.heard.connect(self._on_heard)
        engine.ended.connect(self._on_engine_ended)
        engine.changed.connect(self.changed)

    # What is shown ----------------------------------------------------------------------------------

    @property
    def why_not(self) -> str:
        """Why none can be made now, in words; empty where one can."""
        if self._engine.held:
            return self._engine.held
        return "A run is being made ready." if self._launcher.busy else ""

    @property
    def words(self) -> str:
        """How far it is."""
        if self.opened is None:
            return ""
        count = len(self.opened.results)
        done = f"{self.opened.finished} of {count} runs finished"
        if self.running and self._place is not None:
            point = self.opened.sweep.points[self._place]
            return f"{done}; now {point.label}, seed {point.seed}"
        return done

    def look(self) -> None:
        """For the newest one that lies here."""
        if not self.running:
            self._background.do(_newest, self._on_opened, self._on_refused)

    # What is asked ----------------------------------------------------------------------------------

    def start(
        self, config: RunConfig, shape: ModelShape, over: str, seeds: int, accept_skipped: bool = False
    ) -> None:
        """Ends in a `problem`, or with all runs finished. seeds: how many of each."""
        if self.why_not:
            return
        try:
            sweep = new_sweep(
                config,
                shape,
                over=over,
                seeds=range(seeds),
                runs_dir=self._preferences.runs_folder,
                accept_skipped=accept_skipped,
            )
        except StudioError as error:
            self._stopped(Problem(error.message, error.hint))
            return
        self.running, self.problem, self._place = True, None, None
        folder = sweeps_folder() / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{over}"
        self._background.do(partial(_made, folder, sweep), self._go, self._on_refused)
        self.changed.emit()

    def go_on(self) -> None:
        """From the first run that isn't finished."""
        if self.opened is None or self.why_not:
            return
        self.running, self.problem = True, None
        self._background.do(partial(_opened, self.opened.folder), self._go, self._on_refused)
        self.changed.emit()

    def stop(self) -> None:
        """The run in hand is saved, and can go on as if nothing had happened."""
        if not self.running:
            return
        if self._starting:
            self._launcher.cancel()
        elif self._engine.training:
            self._engine.pause_training()
        self._stopped(None)

    # One run after another ----------------------------------------------------------------------------

    def _go(self, opened: Opened) -> None:
        self.opened = opened
        place = opened.next_place
        if not self.running:
            self.changed.emit()
            return
        if place is None:
            self._background.do(
                partial(save_results, opened.folder, opened.sweep, opened.results),
                lambda _: self.changed.emit(),
                self._on_refused,
            )
            self._stopped(None)
            return
        if self.why_not:  # somebody else took the device between two runs
            self._stopped(Problem(self.why_not, "Go on once it is free."))
            return
        self._place, self._starting = place, True
        point, sweep = opened.results[place].point, opened.sweep
        if point.run:
            self._launcher.resume(Path(point.run), sweep.name_of(point))
        else:
            config = with_changes(sweep.config, point.changes)
            self._launcher.start(config, sweep.name_of(point), sweep.accept_skipped)
        self.changed.emit()

    def _on_prepared(self, answer: reading.RunPrepared) -> None:
        if not self._starting or self.opened is None or self._place is None:
            return
        self._starting = False
        sweep = with_run(self.opened.sweep, self._place, answer.run)
        self.opened = Opened(self.opened.folder, sweep, self.opened.results)
        self._background.do(partial(write_sweep, self.opened.folder, sweep), lambda _: None, self._on_refused)
        self.changed.emit()

    def _on_resumed(self, folder: Path) -> None:
        self._starting = False

    def _on_not_started(self, problem: Problem) -> None:
        if self._starting:
            self._stopped(problem)

    def _on_cancelled(self) -> None:
        if self._starting:
            self._stopped(None)

    def _on_heard(self, event: events.EngineEvent) -> None:
        if not self.running or self._starting or self.opened is None or self._place is None:
            return
        run = self.opened.sweep.points[self._place].run
        match event:
            case events.RunFinished() if event.run == run and event.state == "finished":
                self._background.do(partial(_opened, self.opened.folder), self._go, self._on_refused)
            case events.RunFinished() if event.run == run:
                self._stopped(None)
            case events.RunFailed() if event.run == run:
                self._stopped(event.error)

    def _on_engine_ended(self, reason: str) -> None:
        if self.running and not self._starting:
            self._stopped(Problem(f"The engine ended ({reason}).", "What was saved is safe; go on with it."))

    def _on_opened(self, opened: Opened | None) -> None:
        if not self.running:
            self.opened = opened
            self.changed.emit()

    def _on_refused(self, error: StudioError) -> None:
        self._stopped(Problem(error.message, error.hint))

    def _stopped(self, problem: Problem | None) -> None:
        self.running = self._starting = False
        self._place = None
        self.problem = problem
        self.changed.emit()


def _newest() -> Opened | None:
    """Raises: StudioError where it can't be read."""
    folder = sweeps_folder()
    there = [item for item in folder.iterdir() if (item / SWEEP_FILE).is_file()] if folder.is_dir() else []
    return _opened(max(there, key=lambda item: item.name)) if there else None


def _made(folder: Path, sweep: Sweep) -> Opened:
    """Raises: StudioError."""
    write_sweep(folder, sweep)
    return Opened(folder, sweep, tuple(found(sweep)))


def _opened(folder: Path) -> Opened:
    """Raises: StudioError."""
    sweep = read_sweep(folder)
    return Opened(folder, sweep, tuple(found(sweep)))
