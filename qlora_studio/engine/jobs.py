"""Each command's work, as the events it gives."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

from qlora_studio.engine.adapter_evaluation import evaluate_adapter
from qlora_studio.engine.compiler_ahead import make_compiler_ready
from qlora_studio.engine.device import Device
from qlora_studio.engine.device_error import device_error, is_device_error
from qlora_studio.engine.generation import Chat
from qlora_studio.engine.inbox import Inbox
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.out_of_memory import is_out_of_memory, out_of_memory
from qlora_studio.engine.outbox import log_in
from qlora_studio.engine.training_job import run_training
from qlora_studio.engine.weight_scan import scan_weights
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import (
    EngineCommand,
    Evaluate,
    ExpectTraining,
    Export,
    Generate,
    GenerateTogether,
    LoadModel,
    MakeSampleModel,
    MeasureQuantization,
    ScanWeights,
    Train,
    UnloadModel,
)
from qlora_studio.protocol.events import (
    CommandFailed,
    EngineEvent,
    Problem,
    SampleModelReady,
)
from qlora_studio.runs.folder import LOG_FILE

_log = logging.getLogger(__name__)


class Jobs:
    """One command after the other; the model stays on the device between them."""

    def __init__(self, device: Device, inbox: Inbox) -> None:
        self.holder = ModelHolder(device)
        self._inbox = inbox
        self._chat = Chat(self.holder)

    def events_of(self, command: EngineCommand) -> Generator[EngineEvent, None, None]:
        """Every end is an event: what fails, fails in words."""
        try:
            yield from self._work(command)
        except Exception as error:  # noqa: BLE001  # the command's edge: the engine lives on
            _log.error("%s failed", type(command).__name__, exc_info=error)
            spoiled = is_out_of_memory(error) or is_device_error(error)
            command_id = getattr(command, "id", 0)
            yield CommandFailed(id=command_id, error=self._problem(error), device_spoiled=spoiled)
            if spoiled:
                self._chat.rest()
                self.holder.let_go()
        replied = isinstance(command, Generate | GenerateTogether)
        if not (replied and self.holder.device.is_cuda):  # a card's next reply needs what this one had
            self.holder.device.empty_cache()

    def _work(self, command: EngineCommand) -> Iterator[EngineEvent]:
        if not isinstance(command, Generate | GenerateTogether):
            self._chat.rest()
        if isinstance(command, Train):
            run = Path(command.run)
            with log_in(run / LOG_FILE):
                yield from run_training(run, self.holder, self._inbox.wish, command.ways)
        elif isinstance(command, ExpectTraining):
            make_compiler_ready(self.holder.device.torch_device, lambda: self._inbox.is_asked)
        elif isinstance(command, LoadModel):
            yield from self._chat.load(command)
        elif isinstance(command, Generate):
            yield from self._chat.answer(command, lambda: self._inbox.is_stopped(command.id))
        elif isinstance(command, GenerateTogether):
            yield from self._chat.answer_each(command.replies, self._inbox.is_stopped)
        elif isinstance(command, Evaluate):
            yield from evaluate_adapter(command, self.holder, lambda: self._inbox.is_stopped(command.id))
        elif isinstance(command, Export):
            from qlora_studio.engine.exporting import export  # and with it gguf, which few jobs need

            yield from export(command, self.holder, lambda: self._inbox.is_stopped(command.id))
        elif isinstance(command, UnloadModel):
            self.holder.let_go()
        elif isinstance(command, ScanWeights):
            yield from scan_weights(command, lambda: self._inbox.ends)
        elif isinstance(command, MeasureQuantization):
            from qlora_studio.engine.quantization_lab import measure_quantization

            self.holder.let_go()  # it needs the room, and has a use for no base that is quantized already
            stopped = partial(self._inbox.is_stopped, command.id)
            yield from measure_quantization(command, self.holder.device, stopped)
        elif isinstance(command, MakeSampleModel):
            from qlora_studio.engine.sample_model import make_sample_model

            folder = yield from make_sample_model()
            yield SampleModelReady(id=command.id, folder=str(folder))

    def _problem(self, error: Exception) -> Problem:
        if is_out_of_memory(error):
            return out_of_memory(error, "while doing this", self.holder.device, None)
        if is_device_error(error):
            return device_error(error, "while doing this", self.holder.device)
        if isinstance(error, StudioError):
            return Problem(error.message, error.hint)
        words = f"A bug of ours: {type(error).__name__}: {error}"
        return Problem(words[:2000], "The engine's log has the details; please report it.")
