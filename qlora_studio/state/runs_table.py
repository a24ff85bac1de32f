"""All runs as a table: one row a run, its columns told once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal

from qlora_studio.memory.correction import as_promised
from qlora_studio.runs.history import RunSummary
from qlora_studio.state.data_name import data_name

NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex
SORT_ROLE = Qt.ItemDataRole.UserRole + 1
MOST_CHOSEN = 6  # as many as can be told apart in one chart

_LAST = math.inf  # where a number isn't known: behind all others


@dataclass(frozen=True)
class Column:
    """text: in words; sort: what orders the rows; tip: more words."""

    name: str
    text: Callable[[RunSummary], str]
    sort: Callable[[RunSummary], Any]
    right: bool = False  # a number
    shown: bool = True  # at first
    edits: str = ""  # name | tags | note


class RunsTable(QAbstractTableModel):
    """The summary of a row stands in UserRole.

    edited:         folder, what (name, tags, note), the new text
    chosen_changed: other runs are chosen to be compared
    """

    edited = Signal(object, str, str)
    chosen_changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.columns = COLUMNS
        self.runs: list[RunSummary] = []
        self.chosen: list[Path] = []  # in the order they were chosen in: the order of the series
        self.live: Path | None = None  # trains here

    def show(self, runs: list[RunSummary], live: Path | None) -> None:
        """Rows that stay keep their place in the view."""
        self.live = live
        if [run.folder for run in runs] == [run.folder for run in self.runs]:
            self.runs = runs
            self._all_changed()
        else:
            self.beginResetModel()
            self.runs = runs
            self.endResetModel()
        there = {run.folder for run in runs if run.run is not None}
        self._choose([folder for folder in self.chosen if folder in there])

    def toggle(self, row: int) -> bool:
        """Chosen or not; False where it can't be: unreadable, or one too many."""
        run = self.runs[row]
        if run.folder in self.chosen:
            self._choose([folder for folder in self.chosen if folder != run.folder])
            return True
        if run.run is None or len(self.chosen) >= MOST_CHOSEN:
            return False
        self._choose([*self.chosen, run.folder])
        return True

    def clear(self) -> None:
        """None is chosen."""
        self._choose([])

    def best(self) -> Path | None:
        """Of the chosen, the one with the lowest evaluation loss; None where there is nothing to compare."""
        losses = [
            (loss, str(run.folder))
            for run in self.runs
            if run.folder in self.chosen and (loss := evaluation_loss(run)) is not None
        ]
        return Path(min(losses)[1]) if len(losses) > 1 else None

    def row_of(self, folder: Path) -> int:
        """-1 where it isn't there."""
        return next((row for row, run in enumerate(self.runs) if run.folder == folder), -1)

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.runs)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.columns)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation == Qt.Orientation.Vertical:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return self.columns[section].name
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(self.columns[section])
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        if not index.isValid():
            return Qt.ItemFlag.NoItemFlags
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        run = self.runs[index.row()]
        if index.column() == 0 and run.run is not None:
            flags |= Qt.ItemFlag.ItemIsUserCheckable
        if self.columns[index.column()].edits and run.run is not None:
            flags |= Qt.ItemFlag.ItemIsEditable
        return flags

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        run, column = self.runs[index.row()], self.columns[index.column()]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                is_best = column.name == "Eval loss" and run.folder == self.best()
                return f"{column.text(run)} best" if is_best else column.text(run)
            case Qt.ItemDataRole.EditRole:
                return column.text(run)
            case Qt.ItemDataRole.UserRole:
                return run
            case _ if role == SORT_ROLE:
                return column.sort(run)
            case Qt.ItemDataRole.CheckStateRole if index.column() == 0 and run.run is not None:
                chosen = run.folder in self.chosen
                return Qt.CheckState.Checked if chosen else Qt.CheckState.Unchecked
            case Qt.ItemDataRole.TextAlignmentRole:
                return _alignment(column)
            case Qt.ItemDataRole.AccessibleTextRole if index.column() == 0:
                return f"Compare {run.name}"
        return None

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        if not index.isValid():
            return False
        if role == Qt.ItemDataRole.CheckStateRole:
            return self.toggle(index.row())
        column, run = self.columns[index.column()], self.runs[index.row()]
        if role == Qt.ItemDataRole.EditRole and column.edits and str(value) != column.text(run):
            self.edited.emit(run.folder, column.edits, str(value))
            return True
        return False

    def _choose(self, folders: list[Path]) -> None:
        if folders != self.chosen:
            self.chosen = folders
            self._all_changed()
            self.chosen_changed.emit()

    def _all_changed(self) -> None:
        if self.runs:
            last = self.index(len(self.runs) - 1, len(self.columns) - 1)
            self.dataChanged.emit(self.index(0, 0), last)


def evaluation_loss(run: RunSummary) -> float | None:
    """The best of the run."""
    if run.run is None:
        return None
    state = run.run.state
    return state.best_evaluation_loss if state.best_evaluation_loss is not None else state.evaluation_loss


def promise_error(run: RunSummary) -> float | None:
    """How far the peak lay above (or below) what was promised, as a share."""
    if run.run is None or not run.run.state.peak_bytes:
        return None
    promised = sum(run.run.record.promise_bytes.values())
    was = as_promised(run.run.state.peak_bytes, run.run.record.device)
    return was / promised - 1 if promised else None


def _loss_text(run: RunSummary) -> str:
    loss = evaluation_loss(run)
    return "" if loss is None else f"{loss:.3f}"


def _peak_text(run: RunSummary) -> str:
    size = run.run.state.peak_bytes if run.run else 0
    return f"{size / 2**30:.1f} GiB" if size else ""


def _time_text(run: RunSummary) -> str:
    seconds = run.run.state.elapsed_s if run.run else 0.0
    if not seconds:
        return ""
    minutes = round(seconds / 60)
    if not minutes:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _model(run: RunSummary) -> str:
    if run.run is None:
        return ""
    return run.run.record.model_name or Path(run.run.record.config.model.path).name


def _tags(run: RunSummary) -> str:
    return ", ".join(run.run.notes.tags) if run.run else ""


def _steps_text(run: RunSummary) -> str:
    if run.run is None:
        return ""
    state = run.run.state
    return f"{state.step:,} of {state.total_steps:,}" if state.total_steps else f"{state.step:,}"


def _started_text(run: RunSummary) -> str:
    if run.run is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(run.run.record.created))


def _created(run: RunSummary) -> float:
    return run.run.record.created if run.run else 0.0


def _of_state(name: str, missing: float = _LAST) -> Callable[[RunSummary], float]:
    def value(run: RunSummary) -> float:
        return (getattr(run.run.state, name) or missing) if run.run else missing

    return value


def _error_text(run: RunSummary) -> str:
    error = promise_error(run)
    return "" if error is None else f"{error:+.1%}"


def _speed_text(run: RunSummary) -> str:
    speed = run.run.state.tokens_per_second if run.run else 0.0
    return f"{speed:,.0f}" if speed else ""


def _note(run: RunSummary) -> str:
    return run.run.notes.note if run.run else ""


def _sorted_by(value: Callable[[RunSummary], float | None]) -> Callable[[RunSummary], float]:
    def sort(run: RunSummary) -> float:
        found = value(run)
        return _LAST if found is None else found

    return sort


def _alignment(column: Column) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignRight if column.right else Qt.AlignmentFlag.AlignLeft
    return side | Qt.AlignmentFlag.AlignVCenter


COLUMNS = (
    Column("", lambda run: "", lambda run: run.name),
    Column("Name", lambda run: run.name, lambda run: run.name.casefold(), edits="name"),
    Column("State", lambda run: run.state, lambda run: run.state),
    Column("Model", _model, lambda run: _model(run).casefold()),
    Column("Eval loss", _loss_text, _sorted_by(evaluation_loss), right=True),
    Column("Peak", _peak_text, _of_state("peak_bytes"), right=True),
    Column("Time", _time_text, _of_state("elapsed_s"), right=True),
    Column("Tags", _tags, _tags, edits="tags"),
    Column("Tokens/s", _speed_text, _of_state("tokens_per_second"), right=True, shown=False),
    Column("Promise", _error_text, _sorted_by(promise_error), right=True, shown=False),
    Column("Steps", _steps_text, _of_state("step", -1.0), right=True, shown=False),
    Column(
        "Data",
        lambda run: data_name(run.run.record.config.data) if run.run else "",
        lambda run: data_name(run.run.record.config.data).casefold() if run.run else "",
        shown=False,
    ),
    Column("Started", _started_text, _created, right=True, shown=False),
    Column("Note", _note, _note, shown=False, edits="note"),
)
NAMES = tuple(column.name for column in COLUMNS)
