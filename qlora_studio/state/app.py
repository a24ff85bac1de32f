"""Everything the window shows, in one place: pages are given this and nothing else."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal

from qlora_studio.state.draft import RunDraft
from qlora_studio.state.engine import EngineState
from qlora_studio.state.launch import Launcher
from qlora_studio.state.machine import MachineState
from qlora_studio.state.notices import Notices
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Reader
from qlora_studio.state.sample_model import SampleModel

if TYPE_CHECKING:
    from qlora_studio.state.arena import ArenaState
    from qlora_studio.state.chat import ChatState
    from qlora_studio.state.data import DataState
    from qlora_studio.state.endpoint import EndpointState
    from qlora_studio.state.evaluation import EvaluationState
    from qlora_studio.state.export import ExportState
    from qlora_studio.state.models import ModelsState
    from qlora_studio.state.monitor import MonitorState
    from qlora_studio.state.quantization import QuantizationState
    from qlora_studio.state.runs import RunsState
    from qlora_studio.state.sweep import SweepState
    from qlora_studio.state.train import TrainState


class AppState(QObject):
    """The rooms of the window's memory.

    page_asked: (page name, what it should show): "monitor" with a run folder, "data" with a path, ...
    """

    page_asked = Signal(str, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.preferences = PreferencesState(self)
        self.notices = Notices(self)
        self.machine = MachineState(self.preferences, self)
        self.engine = EngineState(self)
        self.reader = Reader(self)  # imports, checks, token counts: may take minutes
        self.chat_reader = Reader(self)  # renders and encodes chats: must answer at once
        self.doctor_reader = Reader(self)  # looks for odd rows beside what a page waits for
        self.draft = RunDraft(self)
        self.sample_model = SampleModel(self.engine, self)
        self.launcher = Launcher(self.engine, self.reader, self.sample_model, self.preferences, self)

    @cached_property
    def chat(self) -> ChatState:
        """Of the Chat page."""
        from qlora_studio.state.chat import ChatState

        return ChatState(
            self.engine,
            self.chat_reader,
            self.sample_model,
            self.draft,
            self.preferences,
            self.notices,
            self,
        )

    @cached_property
    def arena(self) -> ArenaState:
        """Of the Chat page, too."""
        from qlora_studio.state.arena import ArenaState

        return ArenaState(self.chat, self.engine, self.chat_reader, self.sample_model, self)

    @cached_property
    def endpoint(self) -> EndpointState:
        """Of the Chat page, too."""
        from qlora_studio.state.endpoint import EndpointState

        return EndpointState(self.chat, self.engine, self.chat_reader, self.sample_model, self)

    @cached_property
    def models(self) -> ModelsState:
        """Of the Models page."""
        from qlora_studio.state.models import ModelsState

        return ModelsState(self.reader, self.engine, self.sample_model, self.draft, self.preferences, self)

    @cached_property
    def quantization(self) -> QuantizationState:
        """Of the Models page, too."""
        from qlora_studio.state.quantization import QuantizationState

        return QuantizationState(self.engine, self.reader, self.sample_model, self)

    @cached_property
    def data(self) -> DataState:
        """Of the Data page; built with it, as it loads numpy."""
        from qlora_studio.state.data import DataState

        return DataState(
            self.reader,
            self.chat_reader,
            self.doctor_reader,
            self.draft,
            self.sample_model,
            self.preferences,
            self,
        )

    @cached_property
    def train(self) -> TrainState:
        """Of the Train page; built with it, as it loads numpy."""
        from qlora_studio.state.train import TrainState

        return TrainState(
            self.draft,
            self.reader,
            self.sample_model,
            self.engine,
            self.machine,
            self.preferences,
            self,
        )

    @cached_property
    def export(self) -> ExportState:
        """Of the Export page."""
        from qlora_studio.state.export import ExportState

        return ExportState(self.engine, self.reader, self.sample_model, self.preferences, self)

    @cached_property
    def evaluation(self) -> EvaluationState:
        """Of the Monitor, too."""
        from qlora_studio.state.evaluation import EvaluationState

        return EvaluationState(self.engine, self.reader, self.sample_model, self)

    @cached_property
    def monitor(self) -> MonitorState:
        """Of the Monitor; built with it, as it loads numpy."""
        from qlora_studio.state.monitor import MonitorState

        return MonitorState(
            self.engine,
            self.launcher,
            self.machine,
            self.draft,
            self.preferences,
            self.chat_reader,
            self,
        )

    @cached_property
    def sweep(self) -> SweepState:
        """Of the Runs page and of Train, which begins one."""
        from qlora_studio.state.sweep import SweepState

        return SweepState(self.engine, self.launcher, self.preferences, self)

    @cached_property
    def runs(self) -> RunsState:
        """Of the Runs page; built with it, as it loads numpy."""
        from qlora_studio.state.runs import RunsState

        return RunsState(self.engine, self.launcher, self.draft, self.preferences, self.notices, self)

    def show_page(self, name: str, what: object = None) -> None:
        """Asks the shell for a page."""
        self.page_asked.emit(name, what)

    def save(self) -> str:
        """What was said is put on the disk. Returns: why it can't be, in words; empty where it is."""
        return self.chat.save() if "chat" in self.__dict__ else ""

    def close(self) -> None:
        """Ends the children; a run in training is saved first, and so is what was said."""
        if "endpoint" in self.__dict__:
            self.endpoint.stop()
        if "chat" in self.__dict__:  # built with its page
            self.chat.close()
        if "arena" in self.__dict__:
            self.arena.wait()
        self.machine.close()
        self.engine.close()
        self.reader.close()
        self.chat_reader.close()
        self.doctor_reader.close()
