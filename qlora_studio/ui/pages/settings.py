"""Settings: set once, forget. A change acts at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFileDialog, QSystemTrayIcon

from qlora_studio.config import places
from qlora_studio.errors import StudioError
from qlora_studio.state.app import AppState
from qlora_studio.state.engine import Doing
from qlora_studio.state.folders import FoldersState
from qlora_studio.state.preferences import Preferences
from qlora_studio.ui import figures
from qlora_studio.ui.page import Page
from qlora_studio.ui.pages.settings_about import AboutSection
from qlora_studio.ui.pages.settings_rows import FolderRow, Section, SettingRow
from qlora_studio.ui.theme import TEXT_SIZES, theme
from qlora_studio.ui.widgets import (
    NumberBox,
    Popover,
    SearchBox,
    SecondaryButton,
    Segmented,
    Switch,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.text_size import at_text_size

_LOOK = ("theme", "text_size", "reduced_motion")
_WHILE_TRAINING = ("keep_awake", "notify", "sound")
FOLDERS = {
    "runs": "Folder for new runs",
    "models": "Folder whose models are listed",
    "cache": "Folder for what can be made again",
}
COUNTING, IN_USE = "counting…", "the engine works with it now"
_WIDEST = 940  # px: longer lines are hard to follow from words to control


class SettingsPage(Page):
    """One scrolling page."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app, "settings", "Settings", side=False)
        self._folders = FoldersState(app.preferences, self)
        self._known_cache = places.cache_folder()

    def opened(self, what: object) -> None:
        self._folders.count()
        self._about.refresh(self.app)

    def rescan(self) -> None:
        self.opened(None)

    # Layout

    def pieces(self) -> Iterator[None]:
        """A section at a time."""
        yield from self._fill()
        self._bind()
        self._show_preferences()
        self._show_sizes()

    def _fill(self) -> Iterator[None]:
        self._words = self.search = SearchBox("Search settings", name="settings_search")
        at_text_size(self._words, self._words.setFixedWidth, 240)
        self.add_header(self._words)
        yield
        self._sections = [self._look_section()]
        yield
        self._sections.append(self._folder_section())
        yield
        self._sections.append(self._training_section())
        self._about = AboutSection()
        self._sections.append(self._about)
        yield
        for section in self._sections:
            self.main.addWidget(section)
        self.main.addStretch(1)
        self._fit_sections()
        theme().changed.connect(self._fit_sections)

    def _fit_sections(self) -> None:
        for section in self._sections:
            section.setMaximumWidth(theme().px(_WIDEST))

    def _look_section(self) -> Section:
        section = self._look = Section("Look", "look")
        self._theme = Segmented(
            [("system", "System"), ("light", "Light"), ("dark", "Dark")], name="settings_theme", label="Theme"
        )
        size = self.app.preferences.values.text_size
        self._text_size = NumberBox(*TEXT_SIZES, size, name="settings_text_size", label="Text size", unit="%")
        self._text_size.setSingleStep(10)
        self._motion = Segmented(
            [("system", "System"), ("off", "Full"), ("on", "Reduced")], name="settings_motion", label="Motion"
        )
        section.add(SettingRow("Theme", "System follows the desktop while the window runs.", self._theme))
        section.add(SettingRow("Text size", "90 to 200 %.", self._text_size))
        section.add(SettingRow("Motion", "Reduced: notices and questions appear at once.", self._motion))
        return section

    def _folder_section(self) -> Section:
        section = self._folder = Section("Folders", "folders")
        self._change = {which: _change_button(which) for which in FOLDERS}
        self._clear_cache = SecondaryButton("Clear…", name="settings_clear_cache", small=True)
        self._open_runs = _open_button("runs")
        self._open_models = _open_button("models")
        self._open_cache = _open_button("cache")
        self._runs = FolderRow("Runs", "settings_runs_folder", self._open_runs, self._change["runs"])
        self._models = FolderRow(
            "Models", "settings_models_folder", self._open_models, self._change["models"]
        )
        self._cache = FolderRow(
            "Cache", "settings_cache_folder", self._open_cache, self._clear_cache, self._change["cache"]
        )
        self._rows = dict(zip(FOLDERS, (self._runs, self._models, self._cache), strict=True))
        for row in self._rows.values():
            section.add(row)
        return section

    def _training_section(self) -> Section:
        section = self._training = Section("While training", "training")
        self._keep_awake = Switch(name="settings_keep_awake", label="Keep the machine awake")
        self._notify = Switch(name="settings_notify", label="Notify when done or failed")
        self._sound = Switch(name="settings_sound", label="Sound")
        tray = "Where the window isn't in front, by the desktop's own notices."
        if not QSystemTrayIcon.isSystemTrayAvailable():
            tray = "This desktop has no tray to notify from: notices show in the window only."
        section.add(
            SettingRow(
                "Keep the machine awake", "While a model loads, trains or is exported.", self._keep_awake
            )
        )
        section.add(SettingRow("Notify when done or failed", tray, self._notify))
        section.add(SettingRow("Sound", "The desktop's alert sound when a run ends.", self._sound))
        return section

    # Wiring

    def _bind(self) -> None:
        preferences = self.app.preferences
        preferences.changed.connect(self._show_preferences)
        self._words.textChanged.connect(self._filter)
        self._theme.changed.connect(lambda value: preferences.set("theme", value))
        self._motion.changed.connect(lambda value: preferences.set("reduced_motion", value))
        self._text_size.valueChanged.connect(lambda value: preferences.set("text_size", value))
        self._keep_awake.clicked.connect(lambda on: preferences.set("keep_awake", on))
        self._notify.clicked.connect(lambda on: preferences.set("notify", on))
        self._sound.clicked.connect(lambda on: preferences.set("sound", on))
        self._look.reset.clicked.connect(lambda: self._reset(*_LOOK))
        self._folder.reset.clicked.connect(self._on_reset_folders)
        self._training.reset.clicked.connect(lambda: self._reset(*_WHILE_TRAINING))
        self._open_runs.clicked.connect(lambda: _show_folder(preferences.runs_folder))
        self._open_models.clicked.connect(lambda: _show_folder(preferences.models_folder))
        self._open_cache.clicked.connect(lambda: _show_folder(places.cache_folder()))
        for which, button in self._change.items():
            button.clicked.connect(partial(self._pick_folder, which))
        self._clear_cache.clicked.connect(self._ask_to_clear)
        self._folders.changed.connect(self._show_sizes)
        self._folders.cleared.connect(self._on_cleared)
        self._folders.failed.connect(self.show_error)
        self.app.engine.changed.connect(self._show_whether_busy)

    def _show_preferences(self) -> None:
        values = self.app.preferences.values
        self._theme.set_value(values.theme if values.theme in ("light", "dark") else "system")
        self._motion.set_value(values.reduced_motion if values.reduced_motion in ("on", "off") else "system")
        self._text_size.setValue(values.text_size)
        self._keep_awake.setChecked(values.keep_awake)
        self._notify.setChecked(values.notify)
        self._sound.setChecked(values.sound)
        self._runs.path.setText(str(self.app.preferences.runs_folder))
        self._models.path.setText(str(self.app.preferences.models_folder))
        self._cache.path.setText(str(places.cache_folder()))

    def _show_sizes(self) -> None:
        sizes = self._folders.sizes
        for row, name in ((self._runs, "runs"), (self._models, "models")):
            row.set_note(COUNTING if sizes is None else figures.in_gb(getattr(sizes, name)))
        self._show_whether_busy()

    def _show_whether_busy(self) -> None:
        engine, sizes = self.app.engine, self._folders.sizes
        busy = engine.training or engine.doing is not Doing.NOTHING or self.app.launcher.busy
        size = COUNTING if sizes is None else figures.in_gb(sizes.cache) if sizes.cache else "empty"
        allow(self._clear_cache, IN_USE if busy else size if size in (COUNTING, "empty") else "")
        allow(self._change["cache"], IN_USE if busy else "")
        self._cache.set_note(f"{size} · {IN_USE}" if busy else size)

    def _filter(self, text: str) -> None:
        for section in self._sections:
            section.show_matching(text.strip().lower())

    # What is asked

    def _reset(self, *names: str) -> None:
        defaults = Preferences()
        for name in names:
            self.app.preferences.set(name, getattr(defaults, name))
        self._folders.count()

    def _on_reset_folders(self) -> None:
        """The cache's place stays while somebody works in it."""
        names = [f"{which}_folder" for which in FOLDERS if self._change[which].isEnabled()]
        self._reset(*names)
        self._renew_readers()

    def _pick_folder(self, which: str) -> None:
        dialog = QFileDialog(self, FOLDERS[which], self._rows[which].path.full_text())
        dialog.setObjectName(f"settings_pick_{which}")
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.fileSelected.connect(lambda path: self.use_folder(which, Path(path)))
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def use_folder(self, which: str, folder: Path) -> None:
        """A folder that can't be written turns its line into the reason; the old one stays."""
        before = self._rows[which].path.full_text()
        try:
            self._folders.use(which, folder)
        except StudioError as error:
            self._rows[which].set_note(str(error), "bad")
            return
        self._renew_readers()
        self.app.notices.say(f"What lies in {before} stays there.")

    def _renew_readers(self) -> None:
        """Children know the cache from their start."""
        if self._known_cache != places.cache_folder():
            self._known_cache = places.cache_folder()
            self.app.engine.drop()
            self.app.reader.renew()
            self.app.chat_reader.renew()
            self.app.doctor_reader.renew()

    def _ask_to_clear(self) -> None:
        size = self._folders.sizes.cache if self._folders.sizes is not None else 0
        question = Popover(
            self._clear_cache,
            f"Clear {figures.in_gb(size)}? Imported rows, token counts and the unpacked sample model are "
            "made again when they are needed. The rows of unfinished runs stay.",
            "Clear the cache",
            "Keep it",
            name="settings_clear",
            danger=True,
        )
        question.confirmed.connect(self._folders.clear_cache)
        question.open()

    def _on_cleared(self, size: int) -> None:
        self.app.notices.say(f"The cache gave back {figures.in_gb(size)}")


def _open_button(which: str) -> SecondaryButton:
    button = SecondaryButton("Open", name=f"settings_open_{which}", small=True)
    button.setAccessibleName(f"Open the {which} folder")
    return button


def _change_button(which: str) -> SecondaryButton:
    button = SecondaryButton("Change…", name=f"settings_change_{which}", small=True)
    button.setAccessibleName(f"Change the {which} folder")
    return button


def _show_folder(folder: Path) -> None:
    """In the desktop's file manager."""
    folder.mkdir(parents=True, exist_ok=True)
    QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))
