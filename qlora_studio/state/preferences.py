"""The window's own settings: look, folders, notices. A change acts at once and is kept."""

from __future__ import annotations

from pathlib import Path

import msgspec
from PySide6.QtCore import QObject, Signal

from qlora_studio.config import places


class Preferences(msgspec.Struct, kw_only=True):
    """As kept in `window.json`."""

    schema_version: int = 1
    theme: str = "system"  # system | light | dark
    text_size: int = 100  # percent, 90 to 200
    reduced_motion: str = "system"  # system | on | off
    runs_folder: str = ""  # empty: the usual place
    models_folder: str = ""
    cache_folder: str = ""
    offline: bool = False
    keep_awake: bool = True
    notify: bool = True
    sound: bool = False
    models: list[str] = []  # folders the person added
    data: list[str] = []  # files the person imported, newest first
    first_run_done: bool = False


class PreferencesState(QObject):
    """changed: the name of what was changed."""

    changed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._file = places.settings_folder() / "window.json"
        self._values = _read(self._file)
        if self._values.cache_folder:
            places.use_cache_folder(self._values.cache_folder)

    @property
    def values(self) -> Preferences:
        """To be read; changes go through `set`."""
        return self._values

    @property
    def runs_folder(self) -> Path:
        """Where new runs are made."""
        return Path(self._values.runs_folder) if self._values.runs_folder else places.runs_folder()

    @property
    def models_folder(self) -> Path:
        """Whose folders are listed as models."""
        return Path(self._values.models_folder) if self._values.models_folder else places.models_folder()

    def set(self, name: str, value: object) -> None:
        """Acts at once; a disk that can't be written to costs the memory of it, not the change."""
        if getattr(self._values, name) == value:
            return
        setattr(self._values, name, value)
        if name == "cache_folder":
            places.use_cache_folder(self._values.cache_folder)
        self._keep()
        self.changed.emit(name)

    def _keep(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            staging = self._file.with_suffix(".new")
            staging.write_bytes(msgspec.json.format(msgspec.json.encode(self._values)))
            staging.replace(self._file)
        except OSError:
            return


def _read(file: Path) -> Preferences:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Preferences)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Preferences()
