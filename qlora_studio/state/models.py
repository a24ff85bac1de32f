"""The models on disk: which there are, whether each is sound, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt, Signal

from qlora_studio.config import places
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import SAMPLE, RunConfig
from qlora_studio.memory.correction import correction
from qlora_studio.memory.promise import GIB, Promise, promise
from qlora_studio.models.report import ModelReport
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.background import Background
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.engine import EngineState
from qlora_studio.state.launch import device_name, ram_to_promise, room_to_promise
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

SAMPLE_SHAPE = "smollm2-135m"
NO_PARENT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True)
class Entry:
    """One model. `path` is what the settings call it: a folder, or "sample"."""

    path: str
    name: str
    report: ModelReport | None = None
    problem: Problem | None = None
    words: str = ""  # while it is being checked
    promised: Promise | None = None

    @property
    def shape(self) -> ModelShape | None:
        """None until it was checked; the sample's is known before."""
        if self.report is not None:
            return self.report.shape
        return known_shape(SAMPLE_SHAPE) if self.path == SAMPLE else None

    @property
    def usable(self) -> bool:
        """The sample is, before it is unpacked too."""
        return self.report is not None or (self.path == SAMPLE and self.problem is None)


class ModelTable(QAbstractTableModel):
    """Name, size, family, whether it fits, whether it is sound. A tone stands in UserRole."""

    COLUMNS = ("Name", "Size", "Family", "Fits", "Checked")

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.entries: list[Entry] = []

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.entries)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        return 0 if parent.isValid() else len(self.COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return self.COLUMNS[section]
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        words, tone = _cell(self.entries[index.row()], index.column())
        if role == Qt.ItemDataRole.DisplayRole:
            return words
        if role == Qt.ItemDataRole.UserRole:
            return tone
        return None

    def add(self, entry: Entry) -> None:
        """At the end."""
        row = len(self.entries)
        self.beginInsertRows(NO_PARENT, row, row)
        self.entries.append(entry)
        self.endInsertRows()

    def change(self, row: int, entry: Entry) -> None:
        """Another state of the same model."""
        self.entries[row] = entry
        self.dataChanged.emit(self.index(row, 0), self.index(row, len(self.COLUMNS) - 1))

    def remove(self, row: int) -> None:
        """From the list; the folder stays."""
        self.beginRemoveRows(NO_PARENT, row, row)
        del self.entries[row]
        self.endRemoveRows()


class ModelsState(QObject):
    """changed: an entry, or the chosen one, is another."""

    changed = Signal()

    def __init__(
        self,
        reader: Reader,
        engine: EngineState,
        sample_model: SampleModel,
        draft: RunDraft,
        preferences: PreferencesState,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._reader = reader
        self._engine = engine
        self._sample_model = sample_model
        self._draft = draft
        self._preferences = preferences
        self._background = Background("models-disk", self)
        self._jobs: dict[str, Job] = {}
        self._room: tuple[str, int] | None = None  # device and free bytes, the same for all that is promised
        self._needs: tuple[object, list[tuple[str, Promise]]] = (None, [])  # what was asked for, the answer
        self.table = ModelTable(self)
        self.chosen = SAMPLE
        sample_model.made.connect(self._on_sample_made)
        sample_model.failed.connect(self._on_sample_failed)
        engine.changed.connect(self._on_engine_changed)

    def look(self, again: bool = False) -> None:
        """For models that came meanwhile; what is known is checked once, or `again`."""
        self._background.do(self._paths, lambda paths: self._on_paths(paths, again))

    def add_folder(self, folder: Path) -> None:
        """The person's own, checked at once and chosen."""
        path = str(folder.absolute())
        if path not in self._preferences.values.models:
            self._preferences.set("models", [*self._preferences.values.models, path])
        if self.row(path) < 0:
            self.table.add(Entry(path, _name(path)))
        self.choose(path)
        self.check(path)

    def can_forget(self, path: str) -> bool:
        """Only what the person added; the rest lies in the models folder, or comes with the application."""
        return path in self._preferences.values.models

    def forget(self, path: str) -> None:
        """Takes it off the list. The folder stays where it is."""
        row = self.row(path)
        if row < 0 or not self.can_forget(path):
            return
        if path in self._jobs:
            self._jobs.pop(path).cancel()
        self.table.remove(row)
        self._preferences.set("models", [item for item in self._preferences.values.models if item != path])
        self.choose(SAMPLE)

    def choose(self, path: str) -> None:
        """Shows its details."""
        self.chosen = path
        self.changed.emit()

    def use(self) -> None:
        """For the next run."""
        self._draft.set("model.path", self.chosen)

    def unpack_sample(self) -> None:
        """Makes the bundled model's folder now rather than at the first run."""
        self._change(SAMPLE, words="Unpacking, once", problem=None)
        self._sample_model.make()

    def check(self, path: str) -> None:
        """Asks the reader."""
        if path in self._jobs:
            return
        if path == SAMPLE and not self._sample_model.ready:
            self._change(SAMPLE, report=None, promised=self._promised(known_shape(SAMPLE_SHAPE)))
            return
        folder = str(self._sample_model.folder) if path == SAMPLE else path
        self._change(path, words="Checking")
        job = self._reader.ask(reading.CheckModel, folder=folder)
        self._jobs[path] = job
        job.progress.connect(lambda progress: self._change(path, words=_words(progress)))
        job.answered.connect(lambda answer: self._on_checked(path, answer))
        job.refused.connect(lambda problem: self._on_refused(path, problem))

    def entry(self) -> Entry | None:
        """The chosen one."""
        row = self.row(self.chosen)
        return self.table.entries[row] if row >= 0 else None

    def promises(self) -> list[tuple[str, Promise]]:
        """What the chosen model needs with each preset, in the room that the table's figures are for, too."""
        entry = self.entry()
        shape = entry.shape if entry is not None and entry.usable else None
        if shape is None:
            return []
        asked = (shape, self._room_known())
        if asked != self._needs[0]:
            presets = [(preset.name, preset.config) for preset in self._draft.presets]
            self._needs = (asked, [(name, self._needed(shape, config)) for name, config in presets])
        return self._needs[1]

    def _on_paths(self, paths: list[str], again: bool) -> None:
        self._room = room_to_promise(self._engine)
        known = {entry.path for entry in self.table.entries}
        for path in paths:
            if path not in known:
                self.table.add(Entry(path, _name(path)))
        for entry in list(self.table.entries):
            if again or (entry.report is None and entry.problem is None):
                self.check(entry.path)
            elif entry.shape is not None:
                self._change(entry.path, promised=self._promised(entry.shape))
        self.changed.emit()

    def _on_checked(self, path: str, answer: reading.ModelChecked) -> None:
        self._jobs.pop(path, None)
        promised = self._promised(answer.report.shape)
        self._change(path, report=answer.report, problem=None, words="", promised=promised)

    def _on_refused(self, path: str, problem: Problem) -> None:
        self._jobs.pop(path, None)
        self._change(path, report=None, problem=problem, words="", promised=None)

    def _on_sample_made(self) -> None:
        self.check(SAMPLE)

    def _on_sample_failed(self, problem: Problem) -> None:
        self._change(SAMPLE, problem=problem, words="")

    def _on_engine_changed(self) -> None:
        if self._sample_model.making:
            self._change(SAMPLE, words=self._engine.words)
        if self._room is not None and self._room[0] != room_to_promise(self._engine)[0]:
            self.look()  # the engine computes elsewhere than was thought

    def _room_known(self) -> tuple[str, int]:
        if self._room is None:
            self._room = room_to_promise(self._engine)
        return self._room

    def _promised(self, shape: ModelShape) -> Promise:
        return self._needed(shape, self._draft.config)

    def _needed(self, shape: ModelShape, config: RunConfig) -> Promise:
        device, free_bytes = self._room_known()
        measured = correction(device_name(self._engine), shape, config.model.quantization)
        return promise(
            shape,
            config,
            device=device,
            free_bytes=free_bytes,
            free_ram_bytes=ram_to_promise(self._engine),
            corrected=measured,
        )

    def _change(self, path: str, **changes: Any) -> None:
        row = self.row(path)
        if row >= 0:
            self.table.change(row, replace(self.table.entries[row], **changes))
            self.changed.emit()

    def row(self, path: str) -> int:
        """In the table; -1 where it isn't listed."""
        return next((row for row, entry in enumerate(self.table.entries) if entry.path == path), -1)

    def _paths(self) -> list[str]:
        folder = self._preferences.models_folder
        own = sorted(str(item) for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []
        return list(dict.fromkeys([SAMPLE, *self._preferences.values.models, *own]))


def _words(progress: reading.Progress) -> str:
    return f"{progress.words}: {progress.done:,} of {progress.total:,}" if progress.total else progress.words


def _name(path: str) -> str:
    return places.sample_model_folder().name if path == SAMPLE else Path(path).name


def _cell(entry: Entry, column: int) -> tuple[str, str]:
    """Words and tone."""
    report, promised = entry.report, entry.promised
    match ModelTable.COLUMNS[column]:
        case "Name":
            return entry.name, ""
        case "Size":
            return (f"{report.bytes / 1e9:,.2f} GB" if report else ""), ""
        case "Family":
            return (report.family if report else ""), ""
        case "Fits" if promised is not None:
            gib = f"{promised.total / GIB:.1f} GiB"
            return (f"yes, {gib}", "ok") if promised.fits else (f"no, {gib}", "bad")
        case "Checked":
            return _checked(entry)
    return "", ""


def _checked(entry: Entry) -> tuple[str, str]:
    if entry.words:
        return entry.words, "accent"
    if entry.problem is not None:
        return "not usable", "bad"
    if entry.report is not None:
        return ("sound, with notes", "warn") if entry.report.warnings else ("sound", "ok")
    return "bundled", ""
