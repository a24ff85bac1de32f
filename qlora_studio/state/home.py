"""What Home shows: the newest runs, whether the machine is well, and how long the sample run takes here."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal

from qlora_studio.config import places
from qlora_studio.config.machine_check import Line, check_machine
from qlora_studio.config.presets import sample_preset
from qlora_studio.errors import StudioError
from qlora_studio.state.engine import EngineState
from qlora_studio.state.preferences import PreferencesState

if TYPE_CHECKING:
    from qlora_studio.runs.history import RunSummary

NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex

_RUNS_SHOWN = 5
_SAMPLE_SHAPE = "smollm2-135m"
_FILL = 0.96  # of a packed row that is tokens, on the sample data at 256


@dataclass(frozen=True)
class Found:
    """One look at disk and machine.

    problem:        why the runs folder can't be read; empty where it can
    sample_seconds: None until a run of this kind was measured on this machine
    """

    runs: tuple[RunSummary, ...]
    problem: str
    checks: tuple[Line, ...]
    sample_rows: int
    sample_seconds: float | None


class RecentRuns(QAbstractTableModel):
    """The newest runs: name, state, evaluation loss, age. The summary itself stands in UserRole."""

    COLUMNS = ("Name", "State", "Eval loss", "Last active")

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.runs: tuple[RunSummary, ...] = ()

    def show(self, runs: tuple[RunSummary, ...]) -> None:
        if runs != self.runs:
            self.beginResetModel()
            self.runs = runs
            self.endResetModel()

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.runs)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return self.COLUMNS[section]
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Words and figures are the page's: it shows the summary in UserRole as it likes."""
        if not index.isValid():
            return None
        run = self.runs[index.row()]
        if role == Qt.ItemDataRole.UserRole:
            return run
        if role == Qt.ItemDataRole.DisplayRole:
            return run.name if index.column() == 0 else ""
        return None


class HomeState(QObject):
    """changed: `found` is another one. Disk and libraries are looked at in a thread."""

    changed = Signal()
    _looked = Signal(object)

    def __init__(
        self, preferences: PreferencesState, engine: EngineState, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._preferences = preferences
        self._engine = engine
        self.found: Found | None = None
        self.table = RecentRuns(self)
        self._busy = threading.Lock()
        self._again = False
        self._looked.connect(self._on_looked)

    def refresh(self) -> None:
        """Looks anew; while it is looking, once more afterwards."""
        if not self._busy.acquire(blocking=False):
            self._again = True
            return
        device = self._engine.device.device if self._engine.device else None
        arguments = (self._preferences.runs_folder, device)
        threading.Thread(target=self._look, args=arguments, name="home-look", daemon=True).start()

    def _look(self, runs_folder: Path, engine_device: str | None) -> None:
        try:
            found = look(runs_folder, engine_device)
        finally:
            self._busy.release()
        try:
            self._looked.emit(found)
        except RuntimeError:  # the window is gone
            return

    def _on_looked(self, found: Found) -> None:
        if found != self.found:
            self.found = found
            self.table.show(found.runs[:_RUNS_SHOWN])
            self.changed.emit()
        if self._again:
            self._again = False
            self.refresh()


def look(runs_folder: Path, engine_device: str | None) -> Found:
    """Reads two small files a run, the versions of the libraries, the card and the disk."""
    from qlora_studio.memory.devices import card_reading, processor_name
    from qlora_studio.memory.speed import speed_here
    from qlora_studio.models.shapes import known_shape
    from qlora_studio.runs.history import list_runs

    runs, problem = [], ""
    try:
        runs = list_runs(runs_folder)
    except StudioError as error:
        problem = str(error)
    card = card_reading()
    config = sample_preset().config
    used = card if engine_device != "cpu" else None
    speed = speed_here(
        used.name if used else processor_name(),
        known_shape(_SAMPLE_SHAPE),
        config,
        device="cuda" if used else "cpu",
        card_multiplies_in_fp8=bool(used and used.multiplies_in_fp8),
    )
    training = config.training
    rows = training.steps * training.batch_size * training.gradient_accumulation
    return Found(
        runs=tuple(runs),
        problem=problem,
        checks=tuple(check_machine(card.name if card else None, engine_device)),
        sample_rows=_lines(places.sample_data_file()),
        sample_seconds=rows * config.data.seq_len * _FILL / speed if speed else None,
    )


def _lines(file: Path) -> int:
    try:
        with file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    except OSError:
        return 0
