"""The machine under the window: card, memory and disk, once a second."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.memory.devices import CardReading, card_reading
from qlora_studio.state.preferences import PreferencesState


class MachineState(QObject):
    """changed: `card` or `free_bytes`, of the disk of the runs folder, is another one.

    Readings are taken in a thread: a driver may hang.
    """

    changed = Signal()
    _read = Signal(object, object)

    def __init__(self, preferences: PreferencesState, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._preferences = preferences
        self.card: CardReading | None = None
        self.free_bytes: int | None = None
        self._busy = threading.Lock()
        self._read.connect(self._on_read)
        self._timer = QTimer(self, interval=1000)
        self._timer.timeout.connect(self.refresh)

    def start(self) -> None:
        """Called by the shell once it is painted."""
        self._timer.start()
        self.refresh()

    def close(self) -> None:
        """No more readings."""
        self._timer.stop()

    def refresh(self) -> None:
        """Reads anew unless the last reading still hangs."""
        if self._busy.acquire(blocking=False):
            threading.Thread(target=self._take, name="machine-reading", daemon=True).start()

    def _take(self) -> None:
        try:
            card, free_bytes = card_reading(), _free_bytes(self._preferences.runs_folder)
            try:
                self._read.emit(card, free_bytes)
            except RuntimeError:  # the window is gone
                return
        finally:
            self._busy.release()

    def _on_read(self, card: CardReading | None, free_bytes: int | None) -> None:
        if (card, free_bytes) != (self.card, self.free_bytes):
            self.card, self.free_bytes = card, free_bytes
            self.changed.emit()


def _free_bytes(folder: Path) -> int | None:
    existing = next((place for place in (folder, *folder.parents) if place.exists()), None)
    try:
        return shutil.disk_usage(existing).free if existing else None
    except OSError:
        return None
