"""The one engine and what it is doing, in words; who holds the device."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.client.engine_thread import EngineThread
from qlora_studio.memory.devices import process_bytes
from qlora_studio.protocol import commands, events
from qlora_studio.runs.less_memory import Way

HEARTBEAT_MS = 5_000
SILENCE_S = 30.0
NOTHING_TRAINS = "Ready, nothing is training"


_Answered = (  # the commands that end in an event; others are wishes
    commands.Train
    | commands.LoadModel
    | commands.Generate
    | commands.GenerateTogether
    | commands.Evaluate
    | commands.Export
    | commands.ScanWeights
    | commands.MeasureQuantization
    | commands.MakeSampleModel
)
_Answer = (
    events.CommandFailed
    | events.GenerationFinished
    | events.ExportFinished
    | events.EvaluationReport
    | events.SampleModelReady
    | events.WeightsScanned
    | events.QuantizationMeasured
)


@dataclass
class _Open:
    """A command whose answer is still to come. replies: ids of those that it makes and that haven't ended."""

    command: _Answered
    replies: set[int]

    @classmethod
    def of(cls, command: _Answered) -> _Open:
        """As it was just said."""
        match command:
            case commands.Generate():
                return cls(command, {command.id})
            case commands.GenerateTogether():
                return cls(command, {reply.id for reply in command.replies})
            case _:
                return cls(command, set())

    def take(self, event: events.EngineEvent) -> bool:
        """Whether that ends it."""
        if isinstance(self.command, commands.Train):
            return isinstance(event, events.RunFinished | events.RunFailed)
        if isinstance(event, events.GenerationFinished) and event.id in self.replies:
            self.replies.discard(event.id)
            return not self.replies
        return isinstance(event, _Answer) and event.id == self.command.id


class Doing(Enum):
    """What the engine does. The value is the word of the run chip and of the state chip."""

    NOTHING = "Ready"
    STARTING = "Starting"
    LOADING = "Loading"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SAMPLING = "Answering"
    SAVING = "Saving"
    STOPPING = "Stopping"
    PAUSING = "Pausing"
    CHATTING = "Chat"
    EXPORTING = "Exporting"
    MEASURING = "Measuring"


class EngineState(QObject):
    """Owns the engine's thread. One engine at a time; it is started when something is asked of it, or a run
    is prepared.

    heard:   every EngineEvent, for whoever follows a run, a chat or an export
    changed: `doing`, `words`, `tone`, `run` or `silent` changed
    ended:   the engine is gone, by itself or dropped; why, in words
    forgot:  no model is loaded any more; what is asked from now on is asked of another process
    """

    heard = Signal(object)
    changed = Signal()
    ended = Signal(str)
    forgot = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thread: EngineThread | None = None
        self._ids = itertools.count(1)
        self._last_word = time.monotonic()
        self._last_checkpoint: tuple[int, float] | None = None  # step, monotonic seconds
        self._before_silence: tuple[Doing, str, str] | None = None
        self._stopping = False
        self._ending = False
        self._dropped = False
        self._asked: list[_Open] = []  # of this engine and not answered yet, in the order they are done
        self._waiting: list[commands.EngineCommand] = []  # for the engine after the one that is ending
        self.doing = Doing.NOTHING
        self.words = NOTHING_TRAINS
        self.tone = "ok"
        self.run: Path | None = None  # that trains now
        self._name = ""  # of that run
        self._lent = ""  # what else holds the device
        self.shown_on = "monitor"  # the page that shows what holds it
        self.step = 0
        self.total_steps = 0
        self.silent_s = 0.0
        self.device: events.EngineReady | None = None
        self._heart = QTimer(self, interval=HEARTBEAT_MS)
        self._heart.timeout.connect(self._on_heartbeat)

    # What can be asked ------------------------------------------------------------------------------

    @property
    def training(self) -> bool:
        """Whether a run holds the device."""
        return self.run is not None

    @property
    def run_name(self) -> str:
        """Of the run that trains, as the person calls it; empty where none does."""
        return (self._name or self.run.name) if self.run is not None else ""

    @property
    def held(self) -> str:
        """Why nothing else can be begun, a sentence; empty where the device is free. A chat gives way."""
        return f"{self.run_name} is training and holds the device." if self.training else self._lent

    def lend(self, words: str, page: str = "monitor") -> None:
        """To what isn't a run, from its first question to the reader on: no run starts meanwhile.

        words: a sentence as in `held`; empty: the device is given back
        page:  that shows it
        """
        if words != self._lent:
            self._lent, self.shown_on = words, page if words else "monitor"
            self.changed.emit()

    def process_bytes(self) -> int | None:
        """RAM that the engine takes now; None where there is none."""
        pid = self._thread.pid if self._thread is not None else None
        return process_bytes(pid) if pid is not None else None

    def train(self, run: Path, name: str = "", ways: tuple[Way, ...] = ()) -> None:
        """From the newest sound checkpoint, or from the start. The device must be free.

        ways: to take less memory from now on
        """
        assert self.run is None, "one device, one run"
        self.run, self._name = run, name
        self.step, self.total_steps, self._last_checkpoint = 0, 0, None
        self.say(commands.Train(run=str(run), ways=ways))
        self._now(Doing.STARTING, f"Starting {self.run_name}", "accent")

    def expect_training(self) -> None:
        """A run is being prepared. An engine that is at something else is left to that."""
        if not self._asked:
            self.say(commands.ExpectTraining())

    def rename(self, run: Path, name: str) -> None:
        """The person calls a run otherwise from now on."""
        if run == self.run:
            self._name = name
            self.changed.emit()

    def stop_training(self) -> None:
        """Saves first; `RunFinished` says when it is done."""
        self._stopping = True
        self.say(commands.StopTraining())
        self._now(Doing.STOPPING, f"Stopping {self._then()}", "accent")

    def pause_training(self) -> None:
        """Saves, then the engine ends and the device is free."""
        self._stopping = True
        self.say(commands.PauseTraining())
        self._now(Doing.PAUSING, f"Pausing {self._then()}", "accent")

    def save_now(self) -> None:
        """A checkpoint after the step in hand."""
        self.say(commands.SaveNow())

    @property
    def answers_together(self) -> bool:
        """Whether replies that stand side by side are written at once."""
        return self.device is not None and self.device.device == "cuda"

    def generate(self, replies: Sequence[dict[str, Any]]) -> tuple[int, list[int]]:
        """Asks for these, each the fields of a `Generate`; the ids of the command and of each reply."""
        asked = [commands.Generate(id=next(self._ids), **fields) for fields in replies]
        ids = [reply.id for reply in asked]
        command: commands.Generate | commands.GenerateTogether = asked[0]
        if len(asked) > 1:
            command = commands.GenerateTogether(id=next(self._ids), replies=tuple(asked))
        self.say(command)
        self._now(Doing.CHATTING, "Chat, writing", "accent")
        return command.id, ids

    def command(self, kind: type[commands.Command], **fields: Any) -> int:
        """Says a command that has an id, and gives the id back."""
        command_id = next(self._ids)
        self.say(kind(id=command_id, **fields))  # type: ignore[arg-type]  # one of EngineCommand
        if kind is commands.Generate:
            self._now(Doing.CHATTING, "Chat, writing", "accent")
        elif kind is commands.Export:
            self._now(Doing.EXPORTING, "Exporting", "accent")
        elif kind is commands.Evaluate:
            self._now(Doing.EVALUATING, "Evaluating", "accent")
        elif kind is commands.MeasureQuantization:
            self._now(Doing.MEASURING, "Measuring the quantization", "accent")
        elif kind is commands.LoadModel:
            self._now(Doing.LOADING, "Loading the model", "accent")
        elif kind is commands.MakeSampleModel:
            self._now(Doing.LOADING, "Unpacking the sample model", "accent")
        return command_id

    def say(self, command: commands.EngineCommand) -> None:
        """Starts the engine where there is none; where the last one is just ending, a new one after it."""
        if self._ending:
            self._waiting.append(command)
            return
        if self._thread is None:
            self._start()
        assert self._thread is not None
        if isinstance(command, _Answered):
            self._asked.append(_Open.of(command))
        self._thread.say(command)

    def kill(self) -> None:
        """For an engine that doesn't answer; the run stays resumable."""
        if self._thread is not None:
            self._thread.kill()

    def drop(self) -> None:
        """Ends the engine now, with what it is at; nothing of that is wanted."""
        if self._thread is not None and not self._ending:
            self._ending = self._dropped = True
            self._thread.kill()
            self.forgot.emit()

    def release(self) -> None:
        """Ends the engine so that the device is free; a run in training is saved first."""
        if self._thread is not None and not self._ending:
            self._ending = True
            self._thread.hang_up()
            self.forgot.emit()

    def close(self, wait_ms: int = 120_000) -> None:
        """Ends the engine and waits for it: at most one step and one save (R7)."""
        if self._thread is not None:
            self._thread.hang_up()
            if not self._thread.wait(wait_ms):
                self._thread.kill()
                self._thread.wait()

    # What is heard ----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._thread = EngineThread(self)
        self._thread.heard.connect(self._on_heard)
        self._thread.ended.connect(self._on_ended)
        self._last_word = time.monotonic()
        self._thread.start()
        self._heart.start()
        self._now(Doing.STARTING, "Starting the engine", "accent")

    def _on_heard(self, event: events.EngineEvent) -> None:
        self._last_word = time.monotonic()
        self.silent_s = 0.0
        if self._before_silence is not None:
            self._now(*self._before_silence)
            self._before_silence = None
        self._follow(event)
        self.heard.emit(event)

    def _follow(self, event: events.EngineEvent) -> None:
        self._cross_off(event)
        if isinstance(event, events.GenerationFinished) and any(asked.replies for asked in self._asked):
            return  # others are still written, beside it or after it
        match event:
            case events.EngineReady():
                self.device = event
                if not self._asked:  # it was started for what is being prepared
                    self._now_idle()
            case events.LoadingProgress():
                count = f": {event.done:,} of {event.total:,}" if event.total else ""
                measuring = self.doing is Doing.MEASURING  # layers are loaded one after the other there
                self._now(Doing.MEASURING if measuring else Doing.LOADING, f"{event.words}{count}", "accent")
            case events.RunStarted():
                self.step, self.total_steps = event.step, event.total_steps
                self._now_training()
            case events.StepFinished():
                self.step = event.step
                self._now_training()
            case events.EvaluationProgress():
                words = event.words or "Evaluating"
                self._now(Doing.EVALUATING, f"{words} {event.done:,} of {event.total:,}", "accent")
            case events.SampleReady():
                self._now(Doing.SAMPLING, "Answering sample prompts", "accent")
            case events.Saving():
                self._now(Doing.SAVING, f"Saving step {event.step:,}", "accent")
            case events.CheckpointSaved():
                self._last_checkpoint = (event.step, time.monotonic())
                self._now_training()
            case events.RunFinished():
                self._run_ended(event)
            case events.RunFailed():
                self.run = None
                self._stopping = False
                self._now(Doing.NOTHING, event.error.message, "bad")
                if event.cause in ("out_of_memory", "device"):
                    self.release()  # only a process that is gone has given all of its memory back
            case events.ExportProgress():
                self._now(Doing.EXPORTING, _with_bytes(event), "accent")
            case (
                events.GenerationFinished()
                | events.ExportFinished()
                | events.EvaluationReport()
                | events.SampleModelReady()
                | events.WeightsScanned()
                | events.QuantizationMeasured()
            ):
                self._now_idle()
            case events.CommandFailed():
                self._now_idle()
                if event.device_spoiled and self.run is None:
                    self.release()
            case events.ModelLoaded() if self.run is None:
                self._now_idle()

    def _cross_off(self, event: events.EngineEvent) -> None:
        """What this answers, and what was asked before it: commands are done in their order."""
        if isinstance(event, events.ModelLoaded):  # a run and an evaluation load one, too
            if self._asked and isinstance(self._asked[0].command, commands.LoadModel):
                del self._asked[0]
            return
        for place, asked in enumerate(self._asked, start=1):
            if asked.take(event):
                del self._asked[:place]
                return

    def _run_ended(self, event: events.RunFinished) -> None:
        self.run = None
        self._stopping = False
        if event.state == "paused":
            where = f"at step {event.step:,}" if event.step else "before the first step"
            self._now(Doing.NOTHING, f"Paused {where}, the device is free", "warn")
            self.release()
        else:
            self._now_idle()

    def _now_training(self) -> None:
        if self._stopping:
            return
        words = "Training"
        if self._last_checkpoint is not None:
            step, when = self._last_checkpoint
            words += f" · last checkpoint step {step:,}, {_ago(time.monotonic() - when)}, verified"
        self._now(Doing.TRAINING, words, "accent")

    def _then(self) -> str:
        """How a stop or a pause goes on; before a first step there may be nothing to save."""
        return "after this step, then saving" if self.step else "as soon as it can; no step is finished yet"

    def _now_idle(self) -> None:
        if self.run is None:
            self._now(Doing.NOTHING, NOTHING_TRAINS, "ok")

    def _now(self, doing: Doing, words: str, tone: str) -> None:
        if (doing, words, tone) != (self.doing, self.words, self.tone):
            self.doing, self.words, self.tone = doing, words, tone
            self.changed.emit()

    def _on_heartbeat(self) -> None:
        if self._thread is None or self._ending:
            return
        self._thread.say(commands.Heartbeat())
        silent_s = time.monotonic() - self._last_word
        if silent_s > SILENCE_S:
            if self._before_silence is None:
                self._before_silence = (self.doing, self.words, self.tone)
            self.silent_s = silent_s
            self._now(self.doing, f"The engine has not answered for {silent_s:.0f} s.", "warn")

    def _on_ended(self, reason: str) -> None:
        thread, self._thread = self._thread, None
        self._heart.stop()
        self.silent_s = 0.0
        self._before_silence = None
        if thread is not None:
            thread.wait()
            thread.deleteLater()
        dropped = self._dropped
        asked, self._asked = self._asked, []
        self.forgot.emit()
        if not reason and not dropped:
            self._fail_unanswered(asked)
        self._stopping = self._ending = self._dropped = False
        waiting, self._waiting = self._waiting, []
        if dropped:  # whatever else it was to do is not done either
            reason = ""
            self.ended.emit("stopped")
        if waiting and not reason:
            for command in waiting:
                self.say(command)
            return
        lost, self.run = self.run, None
        if reason or lost is not None:
            self._now(Doing.NOTHING, f"The engine ended ({reason or 'asked to'}).", "bad")
            self.ended.emit(reason or "asked to")
        elif self.tone not in ("warn", "bad"):
            self._now_idle()
        self.changed.emit()

    def _fail_unanswered(self, unanswered: list[_Open]) -> None:
        """What stood in the pipe of a process that ended as it was asked to: nobody else tells of it."""
        self._ending = True  # what is asked by those who hear it comes after what waits already
        problem = events.Problem("The engine ended before this was done.", "Try again: it is started anew.")
        for asked in unanswered:
            if not isinstance(asked.command, commands.Train):
                self.heard.emit(events.CommandFailed(id=asked.command.id, error=problem))


def _ago(seconds: float) -> str:
    minutes = int(seconds // 60)
    return "just now" if minutes == 0 else f"{minutes} min ago"


def _with_bytes(progress: events.ExportProgress) -> str:
    if not progress.total:
        return progress.words
    return f"{progress.words}: {progress.done / 1e9:.1f} of {progress.total / 1e9:.1f} GB"
