"""Home: where was I, is the machine well, what next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QModelIndex, QTimer
from PySide6.QtWidgets import QFileDialog

from qlora_studio.config.presets import sample_preset
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.data.file_names import name_filter
from qlora_studio.protocol.events import Problem
from qlora_studio.state.app import AppState
from qlora_studio.state.home import HomeState
from qlora_studio.ui.page import Page
from qlora_studio.ui.pages.home_cards import ContinueCard, DoctorCard, OwnDataCard, WelcomeCard
from qlora_studio.ui.pages.home_lists import RecentCard, ShelfCard
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import IconButton
from qlora_studio.ui.widgets.columns import Columns

if TYPE_CHECKING:
    from qlora_studio.runs.history import RunSummary

SAMPLE_RUN = "sample-run"

_SHOWN = 4  # models, and data
_RESUMABLE = {"paused", "interrupted", "stopped", "failed"}


class HomePage(Page):
    """The first page."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app, "home", "Home")
        self._state = HomeState(app.preferences, app.engine, self)
        self._started_here = False
        self._fill()
        self._bind()
        self._show_shelves()
        self._show_found()

    def opened(self, what: object) -> None:
        self._show_shelves()
        self._state.refresh()

    def rescan(self) -> None:
        self._state.refresh()

    # Layout

    def _fill(self) -> None:
        self._welcome = WelcomeCard()
        self._continue = ContinueCard()
        self._own_data = OwnDataCard()
        self._recent = RecentCard(self._state.table)
        self._models = ShelfCard("Your models", "home_models", "home_add_model", "Add a folder")
        self._data = ShelfCard("Your data", "home_data", "home_import_data", "Import a file")
        self._doctor = DoctorCard()
        shelves = Columns(most=2, least=300, gap=theme().size.grid, line_gap=theme().size.grid)
        shelves.addWidget(self._models)
        shelves.addWidget(self._data)
        for card in (self._welcome, self._continue, self._own_data, self._recent):
            self.main.addWidget(card)
        self.main.addLayout(shelves)
        self.main.addStretch(1)
        self.side.addWidget(self._doctor)
        self.side.addStretch(1)
        self._refresh = IconButton("refresh-cw", "Look at the disk again", name="home_refresh")
        self.add_header(self._refresh)
        self._open_action = self.menu.addAction("Open the chosen run\tEnter")  # the list takes that key
        self._sample_action = self.menu.addAction("Start sample run")
        self._import_action = self.menu.addAction("Import data…")
        self._import_action.setShortcut("Ctrl+O")
        self.addAction(self._import_action)

    def _bind(self) -> None:
        self._state.changed.connect(self._show_found)
        self._refresh.clicked.connect(self.rescan)
        for start in (self._welcome.start.clicked, self._sample_action.triggered):
            start.connect(self._start_sample)
        self._welcome.settings.clicked.connect(self._see_sample_settings)
        self._welcome.cancel.clicked.connect(self.app.launcher.cancel)
        self._continue.open.clicked.connect(self._open_newest)
        self._continue.resume.clicked.connect(self._resume_newest)
        self._continue.chat.clicked.connect(self._chat_with_newest)
        self._own_data.import_file.clicked.connect(self._import_data)
        self._own_data.choose_model.clicked.connect(lambda: self.app.show_page("models"))
        self._recent.table.opened.connect(self._open_row)
        self._recent.all_runs.clicked.connect(lambda: self.app.show_page("runs"))
        self._models.add.clicked.connect(self._add_model)
        self._models.chosen.connect(lambda path: self._open_entry("models", path))
        self._data.add.clicked.connect(self._import_data)
        self._data.chosen.connect(lambda path: self._open_entry("data", path))
        self._import_action.triggered.connect(self._import_data)
        self._open_action.triggered.connect(self._open_chosen)
        self.app.preferences.changed.connect(self._on_preference_changed)
        self.app.launcher.changed.connect(self._show_found)
        self.app.launcher.failed.connect(self._on_launch_failed)
        self.app.launcher.cancelled.connect(self._on_cancelled)
        self.app.engine.changed.connect(self._on_engine_changed)
        self._trained = self.app.engine.run

    # What is shown

    def _show_found(self) -> None:
        found = self._state.found
        newest = self._newest()
        launcher, engine = self.app.launcher, self.app.engine
        waits = launcher.words or engine.held.rstrip(".")
        self._open_action.setEnabled(newest is not None)
        none = "" if newest is not None else " (there is none yet)"
        self._open_action.setText(f"Open the chosen run{none}\tEnter")
        self._sample_action.setEnabled(not waits)
        self._sample_action.setText(f"Start sample run ({waits})" if waits else "Start sample run")
        self._welcome.setVisible(found is not None and newest is None)
        self._continue.setVisible(newest is not None)
        self._own_data.setVisible(newest is not None and self._only_samples())
        self._recent.show_found(found)
        self._doctor.show_checks(found.checks if found is not None else None)
        if found is None:
            return
        self._welcome.show_words(found.sample_rows, found.sample_seconds)
        self._welcome.show_waiting(launcher.words, can_cancel=launcher.busy)
        if newest is not None:
            self._continue.show_run(newest, resumable=newest.state in _RESUMABLE and not waits, waits=waits)
        if found.problem:
            self.show_error(found.problem)

    def _show_shelves(self) -> None:
        values = self.app.preferences.values
        models = [(SAMPLE, "SmolLM2-135M-Instruct", "sample")]
        models += [(path, Path(path).name, "") for path in values.models if path != SAMPLE]
        data = [(path, Path(path).name, "") for path in values.data if path != SAMPLE]
        data += [(SAMPLE, "gsm8k-sample.jsonl", "sample")]
        self._models.show_entries(models[-_SHOWN:], "box")
        self._data.show_entries(data[:_SHOWN], "database")

    def _newest(self) -> RunSummary | None:
        found = self._state.found
        return next((run for run in found.runs if run.run is not None), None) if found is not None else None

    def _only_samples(self) -> bool:
        found = self._state.found
        runs = [row.run for row in found.runs if row.run is not None] if found is not None else []
        return any(run.state.state == "finished" for run in runs) and all(
            run.record.config.data.path == SAMPLE for run in runs
        )

    # What is asked

    def _start_sample(self) -> None:
        self.banner.clear()
        self._started_here = True
        self.app.launcher.start_sample_run()
        QTimer.singleShot(0, self, lambda: self.app.show_page("monitor"))  # both at once are a stall

    def _see_sample_settings(self) -> None:
        preset = sample_preset()
        self.app.draft.preset = preset
        self.app.draft.replace(preset.config)
        self.app.show_page("train")

    def _open_newest(self) -> None:
        newest = self._newest()
        if newest is not None:
            self.app.show_page("monitor", newest.folder)

    def _open_row(self, index: QModelIndex) -> None:
        run = self._state.table.runs[index.row()]
        self.app.show_page("monitor" if run.run is not None else "runs", run.folder)

    def _open_chosen(self) -> None:
        """The row the keyboard is on, else the newest run."""
        index = self._recent.table.currentIndex()
        if index.isValid():
            self._open_row(index)
        else:
            self._open_newest()

    def _resume_newest(self) -> None:
        newest = self._newest()
        if newest is not None:
            self._started_here = True
            self.app.launcher.resume(newest.folder, newest.name)
            self.app.show_page("monitor", newest.folder)

    def _chat_with_newest(self) -> None:
        newest = self._newest()
        if newest is not None:
            self.app.show_page("chat", newest.folder)

    def _open_entry(self, page: str, path: str) -> None:
        self.app.show_page(page, path if path == SAMPLE else Path(path))

    def _import_data(self) -> None:
        dialog = QFileDialog(self, "Import data: one file, or several to be mixed", "", name_filter())
        dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
        self._pick(dialog, "data")

    def _add_model(self) -> None:
        dialog = QFileDialog(self, "Add a model folder")
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        self._pick(dialog, "models")

    def _pick(self, dialog: QFileDialog, page: str) -> None:
        """Shown without holding the window up."""
        dialog.setObjectName(f"home_pick_{page}")
        dialog.filesSelected.connect(lambda paths: self._on_picked(page, tuple(map(Path, paths))))
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_picked(self, page: str, paths: tuple[Path, ...]) -> None:
        """Several data files are mixed."""
        self.app.show_page(page, paths if len(paths) > 1 else paths[0])

    # What happens elsewhere

    def _on_preference_changed(self, name: str) -> None:
        if name in ("models", "data"):
            self._show_shelves()
        elif name == "runs_folder":
            self._state.refresh()

    def _on_launch_failed(self, problem: Problem) -> None:
        if self._started_here:
            self._started_here = False
            self.show_error(f"{problem.message} {problem.hint}".strip())
            self.app.show_page("home")

    def _on_cancelled(self) -> None:
        """Back to where it was asked."""
        if self._started_here:
            self._started_here = False
            self.app.show_page("home")

    def _on_engine_changed(self) -> None:
        if self.app.engine.run != self._trained:
            self._trained = self.app.engine.run
            self._started_here = False
            self._show_found()
            self._state.refresh()
