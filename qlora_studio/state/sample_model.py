"""The bundled model: an ordinary folder once the engine has made it, on its first use."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, Signal

from qlora_studio.config import places
from qlora_studio.protocol import commands, events
from qlora_studio.state.engine import EngineState


class SampleModel(QObject):
    """made: the folder is there now. failed: Problem(message, hint)."""

    made = Signal()
    failed = Signal(object)

    def __init__(self, engine: EngineState, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._engine = engine
        self._command: int | None = None
        engine.heard.connect(self._on_heard)
        engine.ended.connect(self._on_engine_ended)

    @property
    def folder(self) -> Path:
        """Where it lies, or will lie."""
        return places.sample_model_folder()

    @property
    def ready(self) -> bool:
        """Whether it can be used now."""
        return (self.folder / "config.json").exists()

    @property
    def making(self) -> bool:
        """Whether the engine is at it."""
        return self._command is not None

    def make(self) -> None:
        """Ends in `made` or `failed`; `made` at once where it is there."""
        if self.ready:
            self.made.emit()
        elif self._command is None:
            self._command = self._engine.command(commands.MakeSampleModel)

    def _on_heard(self, event: events.EngineEvent) -> None:
        if self._command is None or getattr(event, "id", None) != self._command:
            return
        if isinstance(event, events.SampleModelReady):
            self._command = None
            self.made.emit()
        elif isinstance(event, events.CommandFailed):
            self._command = None
            self.failed.emit(event.error)

    def _on_engine_ended(self, reason: str) -> None:
        if self._command is not None:
            self._command = None
            self.failed.emit(events.Problem(f"The engine ended ({reason}) before the sample model was made."))
