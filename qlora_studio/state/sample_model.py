"""The bundled model: an ordinary folder once the engine has made it, on its first use."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, Signal

from qlora_studio.config import places
from qlora_studio.protocol import commands, events
from qlora_studio.state.engine import EngineState

WRITES_FROM = 2  # phases of the engine's work: model and tokenizer are read, nothing is written before


class SampleModel(QObject):
    """made: the folder is there now. failed: Problem(message, hint)."""

    made = Signal()
    failed = Signal(object)

    def __init__(self, engine: EngineState, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._engine = engine
        self._command: int | None = None
        self._wanted = 0  # by how many
        self._writes = False  # what it read becomes files: too late to stop it
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
            return
        self._wanted += 1
        if self._command is None:
            self._writes = False
            self._command = self._engine.command(commands.MakeSampleModel)

    def give_up(self) -> None:
        """One who asked doesn't want it any more. Nobody left: it ends now, or in a moment with its files."""
        self._wanted -= 1
        if self.making and self._wanted <= 0 and not self._writes:
            self._command = None
            self._engine.drop()

    def _on_heard(self, event: events.EngineEvent) -> None:
        if isinstance(event, events.LoadingProgress) and self.making:
            self._writes = event.done >= WRITES_FROM
        if self._command is None or getattr(event, "id", None) != self._command:
            return
        if isinstance(event, events.SampleModelReady):
            self._end()
            self.made.emit()
        elif isinstance(event, events.CommandFailed):
            self._end()
            self.failed.emit(event.error)

    def _on_engine_ended(self, reason: str) -> None:
        if self._command is not None:
            self._end()
            self.failed.emit(events.Problem(f"The engine ended ({reason}) before the sample model was made."))

    def _end(self) -> None:
        self._command, self._wanted = None, 0
