"""A chat with the base model and with what a run made of it, side by side, from one loaded base."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import NamedTuple

import msgspec
from PySide6.QtCore import QObject, Signal

from qlora_studio.config.prompts import FIRST_QUESTIONS
from qlora_studio.config.run_config import SAMPLE, ModelConfig
from qlora_studio.data.conversation import Message
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.history import list_runs
from qlora_studio.state.background import Background
from qlora_studio.state.chat_turns import LEFT, RIGHT, Reply, Tuned, Turn, Writing, tuned_runs
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.engine import EngineState
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

SIDE_SEED = 1_000_003  # added on the right where the sides shall not draw alike


class _Wanted(NamedTuple):
    """What must be on the device for a reply. alone: no adapter is asked for."""

    model: ModelConfig
    alone: bool


class ChatState(QObject):
    """changed: the choice, what is possible, or the list of turns. grown: a Reply has more text."""

    changed = Signal()
    grown = Signal(object)

    def __init__(
        self,
        engine: EngineState,
        reader: Reader,
        sample_model: SampleModel,
        draft: RunDraft,
        preferences: PreferencesState,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._engine = engine
        self._reader = reader
        self._sample_model = sample_model
        self._draft = draft
        self._preferences = preferences
        self._background = Background("chat-runs", self)
        self._queue: deque[tuple[Turn, Reply]] = deque()
        self._writing: tuple[Turn, Reply] | None = None
        self._generating: int | None = None
        self._making_sample = False
        self._loading: tuple[int, _Wanted] | None = None  # the command's id, and what it loads
        self._loaded: _Wanted | None = None
        self._checked: set[str] = set()  # model folders and adapters that the reader found sound
        self._merged: set[str] = set()  # model folders of these that an adapter was merged into
        self._job: Job | None = None
        self.model = draft.config.model
        self.tuned: Tuned | None = None
        self.choices: list[Tuned] = []
        self.turns: list[Turn] = []
        self.side_by_side = False
        self.sampling = commands.Sampling()
        self.same_seed = True
        self.system = ""
        self.context_used = self.context_room = 0
        self.left_out = 0  # turns at the beginning for which there is no room any more
        self.template_sha256 = ""
        self.rendered = ""  # the last prompt, exactly as the model got it
        engine.heard.connect(self._on_heard)
        engine.ended.connect(self._on_engine_ended)
        engine.changed.connect(self._on_engine_changed)
        sample_model.made.connect(self._on_sample_made)
        sample_model.failed.connect(self._on_sample_failed)

    # What can be chosen -----------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a reply is on its way."""
        return self._writing is not None

    @property
    def holder(self) -> str:
        """The run that holds the device, empty where it is free."""
        return self._engine.run_name

    @property
    def template_differs(self) -> bool:
        """Whether the model's template isn't the one that the adapter was trained with."""
        trained = self.tuned.template_sha256 if self.tuned else ""
        return bool(trained and self.template_sha256 and trained != self.template_sha256)

    def refresh(self, wanted: Path | None = None) -> None:
        """Reads the runs; chooses `wanted`, a run's folder, where it is given."""
        folder = self._preferences.runs_folder
        self._background.do(
            lambda: tuned_runs(list_runs(folder)),
            lambda found: self._on_runs(found, wanted),
            lambda _: self._on_runs([], wanted),  # the Runs page says what is wrong with the folder
        )

    def choose_tuned(self, tuned: Tuned | None) -> None:
        """The right side; its base becomes the base. None: the base alone."""
        if tuned is not None and tuned.model != self.model:
            self._new_base(tuned.model)
        self.tuned = tuned
        self.side_by_side = tuned is not None
        self.changed.emit()

    def choose_model(self, path: str) -> None:
        """Another base, without an adapter."""
        if path != self.model.path:
            self._new_base(ModelConfig(path=path))
            self.tuned = None
            self.side_by_side = False
        self.changed.emit()

    def set_side_by_side(self, on: bool) -> None:
        """Base and tuned, or the tuned one alone."""
        self.side_by_side = on and self.tuned is not None
        self.changed.emit()

    def new_chat(self) -> None:
        """Forgets all turns."""
        self.stop()
        self._forget_turns()
        self.changed.emit()

    def prompts(self) -> tuple[str, ...]:
        """To begin with: the run's own, or some that show a difference."""
        own = self.tuned.run.record.config.samples if self.tuned else ()
        return tuple(dict.fromkeys((*(sample.prompt for sample in own), *FIRST_QUESTIONS)))[:3]

    # Talking ----------------------------------------------------------------------------------------

    def sides(self) -> tuple[int, ...]:
        """Which sides answer."""
        if self.tuned is None:
            return (LEFT,)
        return (LEFT, RIGHT) if self.side_by_side else (RIGHT,)

    def send(self, text: str) -> None:
        """Each side answers in turn; the device has one engine."""
        turn = Turn(text, [Reply(side, self._adapter_of(side)) for side in self.sides()])
        self.turns.append(turn)
        self._queue.extend((turn, reply) for reply in turn.replies)
        self._next()
        self.changed.emit()

    def again(self, turn: Turn, reply: Reply) -> None:
        """Another answer to the same message; what was said after it is dropped. Not while one is written."""
        if self._writing is not None and self._writing[0] is not turn:
            return
        del self.turns[self.turns.index(turn) + 1 :]
        fresh = Reply(reply.side, self._adapter_of(reply.side), reply.attempt + 1)
        turn.replies[turn.replies.index(reply)] = fresh
        self._queue.append((turn, fresh))
        self._next()
        self.changed.emit()

    def change(self, turn: Turn, text: str) -> None:
        """The message said otherwise: it makes room, with its replies and all that was said after it."""
        if not self.busy and turn in self.turns:
            del self.turns[self.turns.index(turn) :]
            self.left_out = min(self.left_out, len(self.turns))
            self.send(text)

    def stop(self) -> None:
        """The reply in hand ends where it is; what waits isn't begun."""
        for _, reply in self._queue:
            reply.state, reply.ended = Writing.DONE, "stopped"
        self._queue.clear()
        if self._generating is not None:
            self._engine.say(commands.StopGenerating(id=self._generating))
        elif self._writing is not None:
            self._end(Writing.DONE, ended="stopped")
        self.changed.emit()

    # One reply: check, load, encode, generate ---------------------------------------------------------

    def _next(self) -> None:
        if self._writing is not None or not self._queue:
            return
        self._writing = self._queue.popleft()
        self._writing[1].state = Writing.LOADING
        self.grown.emit(self._writing[1])
        self._advance()

    def _advance(self) -> None:
        """The next thing that the reply in hand needs."""
        if self._writing is None:
            return
        adapter = self._writing[1].adapter
        if self._engine.training:
            self._on_failed(Problem(f"{self.holder} is training and holds the device.", "Pause it, or wait."))
        elif self.model.path == SAMPLE and not self._sample_model.ready:
            self._making_sample = True
            self._sample_model.make()
        elif self._folder() not in self._checked:
            self._ask(reading.CheckModel, self._on_model_checked, folder=self._folder())
        elif adapter is not None and adapter not in self._checked:
            self._ask(reading.CheckAdapter, self._on_adapter_checked, folder=adapter, base=self._folder())
        elif self._loaded != self._wanted():
            self._load()
        else:
            self._ask(reading.EncodeChat, self._on_encoded, model=self._folder(), messages=self._messages())

    def _load(self) -> None:
        wanted = self._wanted()
        if self._loading is not None and self._loading[1] == wanted:
            return  # a reply that was stopped meanwhile has asked for it
        command = self._engine.command(
            commands.LoadModel,
            model=self._folder(),
            quantization=self.model.quantization,
            double_quant=self.model.double_quant,
            compute_dtype=self.model.compute_dtype,
            alone=wanted.alone,
        )
        self._loading = (command, wanted)

    def _ask(self, request: type[reading.Request], answered: object, **fields: object) -> None:
        self._job = self._reader.ask(request, **fields)
        self._job.answered.connect(answered)
        self._job.refused.connect(self._on_failed)

    def _on_model_checked(self, answer: reading.ModelChecked) -> None:
        self._checked.add(self._folder())
        if answer.report.merged:
            self._merged.add(self._folder())
        self._advance()

    def _on_adapter_checked(self, answer: reading.AdapterChecked) -> None:
        if self._writing is not None and self._writing[1].adapter is not None:
            self._checked.add(self._writing[1].adapter)
        self._advance()

    def _on_sample_made(self) -> None:
        if self._making_sample:
            self._making_sample = False
            self._advance()

    def _on_sample_failed(self, problem: Problem) -> None:
        if self._making_sample:
            self._making_sample = False
            self._on_failed(problem)

    def _on_engine_changed(self) -> None:
        if self._writing is not None and self._writing[1].state is Writing.LOADING:
            self._writing[1].words = self._engine.words
            self.grown.emit(self._writing[1])
        self.changed.emit()

    def _on_encoded(self, answer: reading.ChatEncoded) -> None:
        self._job = None
        self.context_used, self.context_room = len(answer.ids), answer.context
        self.template_sha256, self.rendered = answer.template_sha256, answer.text
        if self._writing is None:
            return
        turn, reply = self._writing
        if len(answer.ids) >= answer.context and self.left_out < self.turns.index(turn):
            self.left_out += 1  # the oldest; this message itself must stay
            self.changed.emit()
            self._advance()
            return
        self._generating = self._engine.command(
            commands.Generate,
            prompt_ids=answer.ids,
            adapter=reply.adapter,
            stop_ids=answer.stop_ids,
            sampling=msgspec.structs.replace(self.sampling, seed=self._seed_of(reply)),
        )
        self.changed.emit()

    def _on_heard(self, event: events.EngineEvent) -> None:
        event_id = getattr(event, "id", 0)  # 0: an event without an id
        match event:
            case events.ModelLoaded() if self._loading is not None and not self._engine.training:
                self._on_loaded(event)
            case events.CommandFailed() if self._loading is not None and event_id == self._loading[0]:
                self._loading = None
                self._on_failed(event.error)
            case events.CommandFailed() if event_id == self._generating:
                self._loaded = None  # out of memory, the engine lets go of the model
                self._on_failed(event.error)
            case events.TextGenerated() if event_id == self._generating and self._writing is not None:
                reply = self._writing[1]
                reply.state = Writing.WRITING
                reply.text += event.text
                reply.tokens = event.tokens
                self.grown.emit(reply)
            case events.GenerationFinished() if event_id == self._generating and self._writing is not None:
                self._finish(event)
            case events.RunStarted() | events.ExportProgress() | events.ExportFinished():
                self._loaded = None  # another model may stand on the device now

    def _on_loaded(self, event: events.ModelLoaded) -> None:
        assert self._loading is not None
        wanted = self._loading[1]
        if event.model == self._folder_of(wanted.model):
            self._loading, self._loaded = None, wanted
            self._advance()

    def _finish(self, event: events.GenerationFinished) -> None:
        assert self._writing is not None
        reply = self._writing[1]
        reply.text, reply.tokens = event.reply, event.tokens
        reply.tokens_per_second = event.tokens_per_second
        reply.first_token_seconds = event.first_token_seconds
        self.context_used += event.tokens
        self._end(Writing.DONE, ended=event.ended)

    def _on_engine_ended(self, reason: str) -> None:
        self._loaded = self._loading = None
        self._on_failed(Problem(f"The engine ended ({reason}).", "Ask again: it is started anew."))

    def _on_failed(self, problem: Problem) -> None:
        self._job = None
        if self._writing is not None:
            self._writing[1].problem = problem
            self._queue.clear()
            self._end(Writing.FAILED)

    def _end(self, state: Writing, ended: str = "") -> None:
        assert self._writing is not None
        reply = self._writing[1]
        reply.state, reply.ended = state, ended
        self._writing = self._generating = None
        if self._job is not None:
            self._job.cancel()
            self._job = None
        self.grown.emit(reply)
        self.changed.emit()
        self._next()

    # What a reply is made from ------------------------------------------------------------------------

    def _wanted(self) -> _Wanted:
        """Of all models only a merged one is loaded otherwise for an adapter: no switch loads a base anew."""
        return _Wanted(self.model, self.tuned is None and self._folder() in self._merged)

    def _folder(self) -> str:
        return self._folder_of(self.model)

    def _folder_of(self, model: ModelConfig) -> str:
        return str(self._sample_model.folder) if model.path == SAMPLE else model.path

    def _adapter_of(self, side: int) -> str | None:
        return str(self.tuned.folder) if side == RIGHT and self.tuned is not None else None

    def _seed_of(self, reply: Reply) -> int:
        apart = SIDE_SEED if reply.side == RIGHT and not self.same_seed else 0
        return (self.sampling.seed + reply.attempt + apart) % 2**31

    def _messages(self) -> tuple[Message, ...]:
        """What this side has heard and said so far."""
        assert self._writing is not None
        turn, reply = self._writing
        said = [Message("system", self.system)] if self.system.strip() else []
        for earlier in self.turns[self.left_out : self.turns.index(turn)]:
            answer = earlier.reply(reply.side) or (earlier.replies[0] if earlier.replies else None)
            if answer is not None and answer.text:
                said += [Message("user", earlier.text), Message("assistant", answer.text)]
        return (*said, Message("user", turn.text))

    def _new_base(self, model: ModelConfig) -> None:
        self.stop()
        self.model = model
        self._forget_turns()
        self.context_room = 0
        self.template_sha256 = self.rendered = ""

    def _forget_turns(self) -> None:
        self.turns.clear()
        self.context_used = self.left_out = 0

    def _on_runs(self, found: list[Tuned], wanted: Path | None) -> None:
        self.choices = found
        of_run = next((tuned for tuned in found if wanted is not None and tuned.run.folder == wanted), None)
        if of_run is not None:
            self.choose_tuned(of_run)
        elif self.tuned is None and not self.turns:
            own = [tuned for tuned in found if tuned.model.path == self._draft.value("model.path")]
            self.model = self._draft.config.model
            self.choose_tuned(own[0] if own else None)
        else:
            self.changed.emit()
