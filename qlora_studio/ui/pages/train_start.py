"""The bar under the settings: the run's name, what it needs on disk, and the start."""

from __future__ import annotations

from PySide6.QtCore import QSignalBlocker
from PySide6.QtWidgets import QHBoxLayout, QWidget

from qlora_studio.state.app import AppState
from qlora_studio.state.train import TrainState
from qlora_studio.ui.figures import in_gb
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import Chip, PlainLabel, PrimaryButton, SecondaryButton, TextBox
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.text_size import at_text_size

NARROW_BELOW = (
    760  # px at 100 %: the label goes; the chip has the figure alone, or goes before what is waited for
)


class StartBar(QWidget):
    """name, start and cancel are the page's to wire."""

    def __init__(self, app: AppState, state: TrainState) -> None:
        super().__init__()
        self._app = app
        self._state = state
        self._label = PlainLabel("Run name", "muted")
        self.name = TextBox(name="train_name", label="Run name")
        at_text_size(self.name, self.name.setMinimumWidth, 120)
        at_text_size(self.name, self.name.setMaximumWidth, 250)
        self._disk = Chip("", "neutral", "hard-drive", name="train_disk")
        self._waits = PlainLabel("", "muted", wrap=True, name="train_waits_for")
        self.cancel = SecondaryButton("Cancel", name="train_cancel")
        self.start = PrimaryButton("Start training", "play", name="train_start")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(theme().px(10))
        layout.addWidget(self._label)
        layout.addWidget(self.name, 1)
        layout.addWidget(self._disk)
        layout.addWidget(self._waits, 1)
        layout.addWidget(self.cancel)
        layout.addWidget(self.start)
        theme().changed.connect(self.refresh)

    def refresh(self) -> None:
        """After anything that the start waits for is another one."""
        if self.name.text().strip() != self._state.name and not self.name.hasFocus():
            with QSignalBlocker(self.name):
                self.name.setText(self._state.name)
                self.name.setCursorPosition(0)  # its beginning is what is seen where room is short
        self.name.setPlaceholderText(self._state.name)
        launcher = self._app.launcher
        waits = launcher.words or self._state.waits_for
        words = f"Start waits for: {waits[:1].lower()}{waits[1:]}" if waits else ""
        self._waits.setText(words)
        allow(self.start, words)
        self.cancel.setVisible(launcher.busy)
        self._show_disk(bool(waits))

    def _show_disk(self, waits: bool) -> None:
        needed, free = self._state.disk_bytes(), self._app.machine.free_bytes
        narrow = self.width() < theme().px(NARROW_BELOW)
        self._disk.setVisible(needed is not None and not (narrow and waits))
        if needed is None:
            return
        words = f"Needs {in_gb(needed)} on disk"
        if free is not None:
            words += f", {in_gb(free)} free"
        self._label.setVisible(not narrow)
        self._disk.set(in_gb(needed) if narrow else words, "neutral", "hard-drive")
        self._disk.setAccessibleName(words)
        self._disk.setToolTip(words if narrow else "")
