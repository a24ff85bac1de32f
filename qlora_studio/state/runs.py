"""What the Runs page shows: all runs of the runs folder, those that are compared, what can be done to one."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.errors import StudioError
from qlora_studio.protocol import events
from qlora_studio.runs.check import RunCheck, check_run
from qlora_studio.runs.folder import Run
from qlora_studio.runs.history import RunSummary, list_runs
from qlora_studio.runs.lock import is_locked
from qlora_studio.runs.metrics import METRICS_FILE, MetricsTail
from qlora_studio.runs.notes import Notes, write_notes
from qlora_studio.runs.staged_folder import bytes_in
from qlora_studio.runs.standing import ADAPTER_FOLDER, MODEL_FOLDER
from qlora_studio.state.background import Background
from qlora_studio.state.bin import move_to_bin
from qlora_studio.state.curves import Curves, Points
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.engine import EngineState
from qlora_studio.state.launch import Launcher
from qlora_studio.state.notices import Notices
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.run_differences import Difference, differences, what_is_the_same
from qlora_studio.state.runs_table import RunsTable

LOOK_AGAIN_MS = 2_000  # after a run here did something worth a look

_WORTH_A_LOOK = (
    events.RunStarted,
    events.EvaluationFinished,
    events.CheckpointSaved,
    events.RunFinished,
    events.RunFailed,
)


@dataclass(frozen=True)
class Compared:
    """A run that was chosen. points: None until they are read."""

    run: Run
    series: int
    points: Points | None
    result_bytes: int | None


class RunsState(QObject):
    """changed: the list or its words. compared_changed: other curves or differences.

    told: something was done, or couldn't be: words and tone (ok | warn | bad)
    """

    changed = Signal()
    compared_changed = Signal()
    told = Signal(str, str)

    def __init__(
        self,
        engine: EngineState,
        launcher: Launcher,
        draft: RunDraft,
        preferences: PreferencesState,
        notices: Notices,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._engine = engine
        self._launcher = launcher
        self._draft = draft
        self._preferences = preferences
        self._notices = notices
        self._listing = Background("runs-list", self)
        self._reading = Background("runs-curves", self)
        self._doing = Background("runs-files", self)
        self.table = RunsTable(self)
        self.loaded = False
        self.problem = ""
        self._read: dict[Path, tuple[Points, int | None]] = {}
        self._asked_for: set[Path] = set()
        self._again = QTimer(self, interval=LOOK_AGAIN_MS, singleShot=True)
        self._again.timeout.connect(self.refresh)
        self.table.chosen_changed.connect(self._on_chosen)
        self.table.edited.connect(self._on_edited)
        engine.heard.connect(self._on_heard)
        engine.ended.connect(self._on_engine_ended)

    # The list ---------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Looks at the runs folder again."""
        self._listing.do(partial(list_runs, self._preferences.runs_folder), self._on_listed, self._on_no_list)

    def tags(self) -> list[str]:
        """All that are in use, the most used first."""
        counts: dict[str, int] = {}
        for run in self.table.runs:
            for tag in run.run.notes.tags if run.run else ():
                counts[tag] = counts.get(tag, 0) + 1
        return sorted(counts, key=lambda tag: (-counts[tag], tag))

    def _on_listed(self, runs: list[RunSummary]) -> None:
        self.loaded, self.problem = True, ""
        before = self.compared()
        self._forget_grown(runs)
        self.table.show(runs, self._engine.run)
        self.changed.emit()
        if self.compared() != before:
            self.compared_changed.emit()
        self._read_curves()

    def _on_no_list(self, error: StudioError) -> None:
        self.loaded, self.problem = True, str(error)
        self.changed.emit()

    def _on_heard(self, event: events.EngineEvent) -> None:
        if isinstance(event, _WORTH_A_LOOK) and self.loaded and not self._again.isActive():
            self._again.start()

    def _on_engine_ended(self, reason: str) -> None:
        if self.loaded:
            self._again.start()

    # What is compared -------------------------------------------------------------------------------

    def compared(self) -> list[Compared]:
        """In the order they were chosen in."""
        found = []
        for series, folder in enumerate(self.table.chosen):
            row = self.table.row_of(folder)
            run = self.table.runs[row].run if row >= 0 else None
            if run is not None:
                points, size = self._read.get(folder, (None, None))
                found.append(Compared(run, series, points, size))
        return found

    def differences(self, only_different: bool) -> list[Difference]:
        """Of the chosen runs."""
        compared = self.compared()
        if not compared:
            return []
        rows = differences([item.run for item in compared], [item.result_bytes for item in compared])
        return [row for row in rows if row.differs or not only_different]

    def same_words(self) -> str:
        """Whether the chosen runs' losses can be compared."""
        return what_is_the_same([item.run for item in self.compared()])

    def _on_chosen(self) -> None:
        self._read_curves()
        self.changed.emit()
        self.compared_changed.emit()

    def _read_curves(self) -> None:
        for folder in self.table.chosen:
            if folder not in self._read and folder not in self._asked_for:
                self._asked_for.add(folder)
                self._reading.do(partial(_curves_of, folder), self._on_curves, self._on_no_curves)

    def _on_curves(self, found: tuple[Path, Points, int | None]) -> None:
        folder, points, result_bytes = found
        self._asked_for.discard(folder)
        self._read[folder] = (points, result_bytes)
        self.compared_changed.emit()

    def _on_no_curves(self, error: StudioError) -> None:
        self.told.emit(str(error), "bad")

    def _forget_grown(self, runs: Sequence[RunSummary]) -> None:
        """Curves of runs that went on since they were read."""
        steps = {run.folder: run.run.state.step for run in runs if run.run is not None}
        self._read = {
            folder: read for folder, read in self._read.items() if steps.get(folder) == read[0].last_step
        }

    # What is done to a run --------------------------------------------------------------------------

    def why_not_resume(self, run: RunSummary) -> str:
        """Empty where it can go on."""
        if run.run is None:
            return run.reason
        if run.state == "finished":
            return f"{run.name} is finished."
        if run.run.locked:
            return f"{run.name} is training already."
        if self._engine.held:
            return self._engine.held
        return "A run is being made ready." if self._launcher.busy else ""

    def resume(self, run: RunSummary) -> None:
        """From its newest sound checkpoint."""
        self._launcher.resume(run.folder, run.name)

    def start_sample_run(self) -> None:
        """For who has no run yet."""
        self._launcher.start_sample_run()

    def copy_settings(self, run: RunSummary) -> None:
        """Into the draft of the next run."""
        if run.run is not None:
            self._draft.replace(run.run.record.config)

    def train_on(self, run: RunSummary) -> None:
        """Its settings and its adapter into the draft of the next run."""
        if run.run is not None:
            config = run.run.record.config
            lora = msgspec.structs.replace(config.lora, start_from=str(run.folder))
            self._draft.replace(msgspec.structs.replace(config, lora=lora))

    def check(self, run: RunSummary) -> None:
        """Verifies every byte of every checkpoint."""
        self.told.emit(f"Checking the files of {run.name}", "accent")
        self._doing.do(partial(check_run, run.folder), self._on_checked, self._on_refused)

    def move_to_bin(self, run: RunSummary) -> None:
        """With undo where the system's bin allows it; never a run that somebody writes to (R11)."""
        if run.folder in self.table.chosen:
            self.table.toggle(self.table.row_of(run.folder))
        self._doing.do(partial(_binned, run.folder, run.name), self._on_binned, self._on_refused)

    def save_list(self, runs: Sequence[RunSummary], path: Path) -> None:
        """As CSV, every column."""
        self._doing.do(partial(_write_list, self.table, list(runs), path), self._on_saved, self._on_refused)

    def _on_edited(self, folder: Path, what: str, text: str) -> None:
        run = self.table.runs[self.table.row_of(folder)].run
        if run is not None:
            notes = _edited(run, what, text)
            self._doing.do(partial(write_notes, folder, notes), self._on_done, self._on_refused)
            self._engine.rename(folder, notes.name or run.record.name)

    def _on_done(self, _: object) -> None:
        self.refresh()

    def _on_saved(self, path: Path) -> None:
        self._notices.say(f"Saved {path.name}")

    def _on_refused(self, error: StudioError) -> None:
        self.told.emit(str(error), "bad")

    def _on_checked(self, checked: RunCheck) -> None:
        name = Path(checked.run).name
        damaged = [item for item in checked.checkpoints if not item.sound]
        words = [f"Step {item.step:,} is damaged: {item.reason}." for item in damaged]
        words += [f"{warning}." for warning in checked.warnings]
        if words:
            self.told.emit(f"{name}: {' '.join(words)}", "bad" if damaged else "warn")
        else:
            count = len(checked.checkpoints)
            checkpoints = "checkpoint is" if count == 1 else "checkpoints are"
            self.told.emit(f"{name}: {count} {checkpoints} sound.", "ok")

    def _on_binned(self, done: tuple[str, Callable[[], None] | None]) -> None:
        name, take_out = done
        undo = partial(self._take_out, take_out) if take_out is not None else None
        self._notices.say(f"{name} is in the bin.", undo=undo)
        self.refresh()

    def _take_out(self, take_out: Callable[[], None]) -> None:
        self._doing.do(take_out, self._on_done, self._on_refused)


def _curves_of(folder: Path) -> tuple[Path, Points, int | None]:
    """Raises: StudioError."""
    curves = Curves(MetricsTail(folder / METRICS_FILE))
    curves.read(to_the_end=not is_locked(folder))
    return (
        folder,
        curves.points(),
        bytes_in(folder / ADAPTER_FOLDER) or bytes_in(folder / MODEL_FOLDER) or None,
    )


def _edited(run: Run, what: str, text: str) -> Notes:
    match what:
        case "name":
            return msgspec.structs.replace(run.notes, name=text.strip()[:200])
        case "tags":
            tags = dict.fromkeys(tag.strip()[:40] for tag in text.split(",") if tag.strip())
            return msgspec.structs.replace(run.notes, tags=tuple(tags)[:20])
        case _:
            return msgspec.structs.replace(run.notes, note=text[:10_000])


def _binned(folder: Path, name: str) -> tuple[str, Callable[[], None] | None]:
    """Raises: StudioError."""
    if is_locked(folder):
        raise StudioError(f"{name} is training.", hint="Stop it first.")
    return name, move_to_bin(folder)


def _write_list(table: RunsTable, runs: Sequence[RunSummary], path: Path) -> Path:
    """Raises: StudioError."""
    columns = [column for column in table.columns if column.name]
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["folder", *(column.name for column in columns)])
            writer.writerows([str(run.folder), *(column.text(run) for column in columns)] for run in runs)
    except OSError as error:
        raise StudioError(f"{path} could not be saved: {error.strerror}.") from error
    return path
