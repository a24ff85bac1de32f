"""A chat with the base model and with what a run made of it, side by side, from one loaded base."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from PySide6.QtCore import QObject, Signal

from qlora_studio.config import places
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.prompts import FIRST_QUESTIONS
from qlora_studio.config.run_config import SAMPLE, ModelConfig
from qlora_studio.data.conversation import Message
from qlora_studio.memory.chat_need import chat_bytes, need_words
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.conversations import MOST_SIDES, Conversation, ConversationFile, new_path
from qlora_studio.runs.good_answers import AnswerTurn, GoodAnswer
from qlora_studio.runs.history import list_runs
from qlora_studio.state.background import Background
from qlora_studio.state.chat_branches import Branches
from qlora_studio.state.chat_kept import branches_of, kept_turns
from qlora_studio.state.chat_turns import LEFT, RIGHT, Reply, Tuned, Turn, Writing, tuned_runs
from qlora_studio.state.conversations import ConversationsState
from qlora_studio.state.draft import RunDraft
from qlora_studio.state.engine import EngineState
from qlora_studio.state.good_answers import GoodAnswersState
from qlora_studio.state.launch import device_and_room
from qlora_studio.state.notices import Notices
from qlora_studio.state.preferences import PreferencesState
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

_LONGEST_TOGETHER = 8192  # tokens of a chat that is answered beside others: a command has one line for all
SIDE_SEED = 1_000_003  # added on the right where the sides shall not draw alike


class _Wanted(NamedTuple):
    """What must be on the device for a reply. alone: no adapter is asked for."""

    model: ModelConfig
    alone: bool


class _Chosen(NamedTuple):
    """What an opened conversation was led with: the adapters' folders, `also` beside the chosen one."""

    adapter: str
    also: tuple[str, ...]
    side_by_side: bool


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
        notices: Notices,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self.conversations = ConversationsState(notices, self)
        self.good_answers = GoodAnswersState(notices, self)
        self._engine = engine
        self._reader = reader
        self._sample_model = sample_model
        self._draft = draft
        self._preferences = preferences
        self._background = Background("chat-runs", self)
        self._queue: deque[tuple[Turn, Reply]] = deque()
        self._writing: tuple[Turn, Reply] | None = None  # whose turn it is; of several at once the first
        self._ready: list[tuple[Turn, Reply, dict[str, Any]]] = []  # wait for those that answer beside them
        self._generating: int | None = None  # the command's id
        self._answers: dict[int, tuple[Turn, Reply]] = {}  # that it makes, by their ids
        self._making_sample = False
        self._loading: tuple[int, _Wanted] | None = None  # the command's id, and what it loads
        self._loaded: _Wanted | None = None
        self._base = 0  # id of the command that loaded it
        self._checked: set[str] = set()  # model folders and adapters that the reader found sound
        self._shapes: dict[str, ModelShape] = {}  # of model folders that the reader looked at
        self._asked_shapes: set[str] = set()
        self._merged: set[str] = set()  # model folders of these that an adapter was merged into
        self._job: Job | None = None
        self.model = draft.config.model
        self.tuned: Tuned | None = None
        self.also: list[Tuned] = []  # adapters of the same base that answer beside it
        self.choices: list[Tuned] = []
        self.branches = Branches()
        self.name = ""  # of the conversation, as the person gave it
        self._began = 0.0
        self._file: ConversationFile | None = None  # None: nothing was said yet
        self._kept: Conversation | None = None  # as it was last read from there, or saved
        self._chosen: _Chosen | None = None  # as it was opened, until the person chooses otherwise
        self._opening: Path | None = None  # the one that is read, to be shown in place of this one
        self._draft_then: str | None = None  # its model when another was chosen here; None: none was yet
        self.side_by_side = False
        self.sampling = commands.Sampling()
        self.same_seed = True
        self.stop_words: tuple[str, ...] = ()  # a reply ends before the first of these
        self.mark_differences = True  # where replies stand side by side
        self.system = ""
        self.context_used = self.context_room = 0  # tokens; used is 0 until the branch shown was encoded
        self.left_out = 0  # turns at the beginning for which there is no room any more
        self.template_sha256 = ""
        self.template_difference = ""  # from the one that the adapter was trained with, as text
        self.trained_known = False  # whether the run keeps that one
        self.use_trained = False  # render with it in place of the model's own
        self.rendered = ""  # the last prompt, exactly as the model got it
        engine.heard.connect(self._on_heard)
        engine.ended.connect(self._on_engine_ended)
        engine.forgot.connect(self._on_engine_forgot)
        engine.changed.connect(self._on_engine_changed)
        sample_model.made.connect(self._on_sample_made)
        sample_model.failed.connect(self._on_sample_failed)

    # What was said ----------------------------------------------------------------------------------

    @property
    def turns(self) -> list[Turn]:
        """Of the branch that is shown."""
        return self.branches.shown()

    @property
    def open_path(self) -> Path | None:
        """Where this conversation is kept; None: nothing was said yet."""
        return self._file.path if self._file is not None else None

    def new_chat(self) -> None:
        """The old one stays in the list."""
        self.stop()
        self._keep()
        self._begin()
        self.changed.emit()

    def open(self, path: Path) -> None:
        """One of the conversations that were kept, in place of this one; the last that was asked for."""
        if path == self.open_path:
            self._opening = None
        elif path != self._opening:
            self._opening = path
            self.conversations.open(path, self._on_opened, self._on_not_opened)

    def rename(self, path: Path, name: str) -> None:
        """Of the list, open or not."""
        if path != self.open_path:
            self.conversations.rename(path, name)
        else:
            self.name = name
            self._keep()
            self.changed.emit()

    def move_to_bin(self, path: Path) -> None:
        """Of the list; where it is open, a new one begins."""
        if path in (self.open_path, self._opening):
            self.new_chat()
        self.conversations.move_to_bin(path)

    def show_message(self, turn: Turn) -> None:
        """Another way in which a message was said. Not while a reply is written."""
        if not self.busy:
            self.branches.show(turn)
            self._on_other_branch()

    def show_reply(self, turn: Turn, version: Reply) -> None:
        """Another of a side's replies to the same message. Not while one is written."""
        if not self.busy:
            self.branches.show(self.branches.with_reply(turn, version))
            self._on_other_branch()

    def _on_other_branch(self) -> None:
        self.context_used = self.left_out = 0
        self._keep()
        self.changed.emit()

    def _on_opened(self, opened: tuple[ConversationFile, Conversation]) -> None:
        file, kept = opened
        if file.path != self._opening:  # another was asked for meanwhile
            return
        self.stop()
        self._keep()
        self._begin()
        self._file, self._began, self.name, self.system = file, kept.began, kept.name, kept.system
        self.branches = branches_of(kept)
        self._of_model(kept.model)
        self._draft_then = self._draft.value("model.path")
        self._chosen = _Chosen(kept.adapter, kept.also, kept.side_by_side)
        self._choose_as_it_was(self._chosen)
        self._kept = self._conversation(kept.changed)
        self.changed.emit()

    def _choose_as_it_was(self, chosen: _Chosen) -> None:
        """As far as these adapters are known."""
        self.tuned = next((tuned for tuned in self.choices if str(tuned.folder) == chosen.adapter), None)
        others = {str(item.folder): item for item in self.others()}
        known = [others[folder] for folder in dict.fromkeys(chosen.also) if folder in others]
        self.also = known[: MOST_SIDES - 2]
        self.side_by_side = chosen.side_by_side and self.tuned is not None

    def _on_not_opened(self, path: Path) -> None:
        if path == self._opening:
            self._opening = None

    def _begin(self) -> None:
        """A conversation in which nothing was said yet."""
        self.branches = Branches()
        self._file = self._kept = self._chosen = self._opening = None
        self.name = ""
        self.context_used = self.left_out = 0

    def _of_model(self, model: ModelConfig) -> None:
        self.model = model
        self.also = []
        self.context_room = 0
        self.template_sha256 = self.template_difference = self.rendered = ""
        self.use_trained = False  # of an adapter that may not be chosen any more

    def _keep(self) -> None:
        """On the disk, beside the window, where it isn't there already: to look at it changes nothing."""
        now = time.time()
        if self._file is None:
            self._began = now
        conversation = self._conversation(self._kept.changed if self._kept is not None else now)
        if not conversation.turns or conversation == self._kept:
            return
        if self._file is None:
            self._file = ConversationFile(new_path(places.conversations_folder()))
        self._kept = msgspec.structs.replace(conversation, changed=now)
        self.conversations.keep(self._file, self._kept)

    def _conversation(self, changed: float) -> Conversation:
        turns, replies, shown = kept_turns(self.branches)
        adapter = str(self.tuned.folder) if self.tuned else ""
        chosen = self._chosen or _Chosen(
            adapter, tuple(str(item.folder) for item in self.also), self.side_by_side
        )
        return Conversation(
            name=self.name,
            began=self._began,
            changed=changed,
            model=self.model,
            adapter=chosen.adapter,
            also=chosen.also,
            side_by_side=chosen.side_by_side,
            system=self.system,
            turns=turns,
            replies=replies,
            shown=shown,
        )

    def save(self) -> str:
        """Waits until what was said is on the disk. Returns: why it can't be, in words; empty where it is."""
        self._keep()
        return self.conversations.save()

    def close(self) -> None:
        """What was said is on the disk when this returns, where it can be."""
        self._opening = None
        self.save()
        self._queue.clear()
        self._ready, self._answers = [], {}
        self._writing = self._generating = None
        self.good_answers.wait()

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
    def waits_for(self) -> str:
        """The run that holds the device, and what this chat would need beside it; empty where it is free."""
        if not self.holder:
            return ""
        words = f"{self.holder} is training and holds the device."
        shape = self._shapes.get(self._folder())
        if shape is None:
            return words
        device, free = device_and_room(self._engine)
        return f"{words} Beside it a chat {need_words(chat_bytes(shape, self.model, device, free), free)}."

    def look_at_need(self) -> None:
        """Has the model looked at, where it isn't known yet what it takes."""
        folder = self._folder()
        sample_is_missing = self.model.path == SAMPLE and not self._sample_model.ready
        if self.holder and folder not in self._asked_shapes and not sample_is_missing:
            self._asked_shapes.add(folder)
            job = self._reader.ask(reading.CheckModel, folder=folder)
            job.answered.connect(self._take_shape)

    def _take_shape(self, answer: reading.ModelChecked) -> None:
        self._shapes[answer.report.folder] = answer.report.shape
        self.changed.emit()

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
        """The right side; its base becomes the base. None: the base alone. A model of its own is that.

        After a model of its own, None is the one that its run began with.
        """
        self._draft_then = self._draft.value("model.path")
        if tuned is None and self.own_model is not None:
            self._new_base(self.own_model.run.record.config.model)
        self._put_beside(tuned)

    def _put_beside(self, tuned: Tuned | None) -> None:
        if tuned is not None and tuned.model != self.model:
            self._new_base(tuned.model)
        if tuned is not None and tuned.is_model:
            tuned = None
        self.tuned, self._chosen = tuned, None
        self.use_trained, self.template_difference = False, ""
        self.also = [other for other in self.also if tuned is not None and other != tuned]
        self.side_by_side = tuned is not None
        self.changed.emit()

    @property
    def own_model(self) -> Tuned | None:
        """The run that made the model that is talked with, where it trained all weights."""
        return next((item for item in self.choices if item.is_model and item.model == self.model), None)

    def others(self) -> list[Tuned]:
        """Adapters of the same base that could answer beside the chosen one."""
        if self.tuned is None:
            return []
        return [item for item in self.choices if item.model == self.model and item != self.tuned]

    def compare_with(self, other: Tuned, on: bool) -> None:
        """One more adapter beside base and tuned, or one less. No more than three answer."""
        kept = [item for item in self.also if item != other]
        if on and other in self.others() and len(kept) < MOST_SIDES - 2:
            kept.append(other)
        self.also, self._chosen = kept, None
        self.side_by_side = self.side_by_side or bool(kept)
        self.changed.emit()

    def name_of(self, reply: Reply) -> str:
        """Whose answer it is."""
        if reply.adapter is None:
            return "Base"
        known = (item.name for item in self.choices if str(item.folder) == reply.adapter)
        return next(known, Path(reply.adapter).parent.name)

    def is_as_chosen(self, reply: Reply) -> bool:
        """Whether it is the base's, or the chosen adapter's, in its place."""
        return reply.side <= RIGHT and reply.adapter == self._adapter_of(reply.side)

    def choose_model(self, path: str) -> None:
        """Another base, without an adapter."""
        self._draft_then = self._draft.value("model.path")
        if path != self.model.path:
            self._new_base(ModelConfig(path=path))
            self.tuned = None
            self.side_by_side = False
        self.changed.emit()

    def set_side_by_side(self, on: bool) -> None:
        """Base and tuned, or the tuned one alone."""
        if self.tuned is not None:
            self.side_by_side, self._chosen = on, None
        self.changed.emit()

    def set_mark_differences(self, on: bool) -> None:
        """Whether words that only one side says are marked."""
        self.mark_differences = on
        self.changed.emit()

    def set_use_trained(self, on: bool) -> None:
        """Whether chats are rendered with the template that the adapter was trained with."""
        self.use_trained = on
        self.changed.emit()

    def prompts(self) -> tuple[str, ...]:
        """To begin with: the run's own, or some that show a difference."""
        chosen = self.tuned or self.own_model
        own = chosen.run.record.config.samples if chosen is not None else ()
        return tuple(dict.fromkeys((*(sample.prompt for sample in own), *FIRST_QUESTIONS)))[:3]

    # Talking ----------------------------------------------------------------------------------------

    def sides(self) -> tuple[int, ...]:
        """Which sides answer."""
        if self.tuned is None:
            return (LEFT,)
        return (LEFT, RIGHT, *range(RIGHT + 1, RIGHT + 1 + len(self.also))) if self.side_by_side else (RIGHT,)

    def send(self, text: str) -> None:
        """A card lets all sides answer at once, a processor one after the other."""
        turns = self.turns
        self._say(text, turns[-1] if turns else None)

    def again(self, turn: Turn, *replies: Reply) -> None:
        """Another answer to the same message, on a branch beside what is there. Not while one is written.

        replies: those of the turn that are given once more; a failed one makes room
        """
        if self.busy or turn not in self.turns:
            return
        self._go_back_to(turn)
        fresh = {reply: self._once_more(turn, reply) for reply in replies}
        beside = [fresh.get(reply, reply) for reply in turn.replies]
        if turn.after or any(reply.state is not Writing.FAILED for reply in replies):
            turn = self.branches.branch(turn, beside)
        else:
            turn.replies = beside
        self._answer(turn, list(fresh.values()))

    def change(self, turn: Turn, text: str) -> None:
        """The message said otherwise, on a branch beside the old one. Not while a reply is written."""
        if not self.busy and turn in self.turns:
            before = None if self.branches.is_first(turn) else turn.before
            self._go_back_to(turn)
            self._say(text, before)

    def _go_back_to(self, turn: Turn) -> None:
        """Before an earlier message less was said, and more of it has room."""
        if turn is not self.turns[-1]:
            self.context_used = self.left_out = 0

    def correct(self, turn: Turn, reply: Reply, text: str) -> None:
        """An answer as the person would have it, beside the model's own. Not while a reply is written."""
        if not self.busy and turn in self.turns:
            tried = [version.attempt for version in self.branches.versions(turn, reply.side)]
            corrected = Reply(
                reply.side, reply.adapter, max(tried) + 1, state=Writing.DONE, text=text, ended="corrected"
            )
            replies = [corrected if other is reply else other for other in turn.replies]
            self.branches.branch(turn, replies)
            self._on_other_branch()

    def as_row(self, turn: Turn, reply: Reply) -> GoodAnswer:
        """What was said up to this answer, which alone is learned."""
        said = self._heard(turn, reply)
        on_the_way = (
            AnswerTurn(item.role, item.content, 0.0 if item.role == "assistant" else None) for item in said
        )
        return GoodAnswer((*on_the_way, AnswerTurn("assistant", reply.text)))

    def is_good(self, turn: Turn, reply: Reply) -> bool:
        """Whether it is kept as a row for training."""
        return self.good_answers.may_have(reply.text) and self.good_answers.has(self.as_row(turn, reply))

    def switch_good(self, turn: Turn, reply: Reply) -> None:
        """Keeps an answer as a row for training, or takes it out again."""
        row = self.as_row(turn, reply)
        if self.good_answers.has(row):
            self.good_answers.take_out(row)
        elif reply.state is Writing.DONE and reply.text.strip():
            self.good_answers.keep(row)

    def _say(self, text: str, before: Turn | None) -> None:
        turn = Turn(text, [Reply(side, self._adapter_of(side)) for side in self.sides()])
        self.branches.add(turn, before)
        self._answer(turn, turn.replies)

    def _answer(self, turn: Turn, replies: list[Reply]) -> None:
        self._keep()  # what was typed outlives a crash
        self._queue.extend((turn, reply) for reply in replies)
        self._next()
        self.changed.emit()

    def _once_more(self, turn: Turn, reply: Reply) -> Reply:
        tried = [version.attempt for version in self.branches.versions(turn, reply.side)]
        # Beside base and tuned each answer is its own adapter's: its place may be another's by now.
        chosen = reply.side == LEFT or (reply.side == RIGHT and self.tuned is not None)
        adapter = self._adapter_of(reply.side) if chosen else reply.adapter
        return Reply(reply.side, adapter, max(tried) + 1)

    def stop(self) -> None:
        """The replies in hand end where they are; what waits isn't begun."""
        self._wait_again()
        self._drop(list(self._queue))
        for answer in self._answers:
            self._engine.say(commands.StopGenerating(id=answer))
        if not self._answers and self._writing is not None:
            self._end(self._writing[1], Writing.DONE, ended="stopped")
        self.changed.emit()

    def _drop(self, waiting: list[tuple[Turn, Reply]]) -> None:
        """These are not begun any more."""
        for turn, reply in waiting:
            self._queue.remove((turn, reply))
            reply.state, reply.ended = Writing.DONE, "stopped"
            self.grown.emit(reply)

    # One reply: check, load, encode, generate ---------------------------------------------------------

    def _next(self) -> None:
        if self._writing is not None:
            return
        self._wait_again()
        if self._queue:
            self._begin_next()

    def _wait_again(self) -> None:
        """What was ready beside a reply that came to nothing."""
        self._queue.extendleft(reversed([(turn, reply) for turn, reply, _ in self._ready]))
        self._ready = []

    def _begin_next(self) -> None:
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
            self._ask(
                reading.EncodeChat,
                self._on_encoded,
                model=self._folder(),
                messages=self._messages(),
                run=str(self.tuned.run.folder) if self.tuned else "",
                trained=self.use_trained,
            )

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
        self._shapes[self._folder()] = answer.report.shape
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
        self.template_difference, self.trained_known = answer.difference, answer.trained_known
        if self._writing is None:
            return
        turn, reply = self._writing
        if len(answer.ids) >= answer.context and self.left_out < len(self.branches.said_before(turn)):
            self.left_out += 1  # the oldest; this message itself must stay
            self.changed.emit()
            self._advance()
            return
        if self._loaded != self._wanted():  # an evaluation took the device meanwhile
            self._advance()
            return
        asked = {
            "base": self._base,
            "prompt_ids": answer.ids,
            "adapter": reply.adapter,
            "stop_ids": answer.stop_ids,
            "sampling": msgspec.structs.replace(self.sampling, seed=self._seed_of(reply)),
        }
        self._ready.append((turn, reply, asked))
        if self._one_answers_beside(turn):
            self._begin_next()
        else:
            self._generate()
        self.changed.emit()

    def _one_answers_beside(self, turn: Turn) -> bool:
        """Whether the next reply is written together with those that are ready."""
        return (
            self._engine.answers_together
            and bool(self._queue)
            and self._queue[0][0] is turn
            and len(self._ready) < MOST_SIDES
            and all(_is_short(asked) for *_, asked in self._ready)
        )

    def _generate(self) -> None:
        """All that is ready; one too long to stand beside others waits for its turn."""
        ready, self._ready = self._ready, []
        if len(ready) > 1 and not _is_short(ready[-1][2]):
            turn, reply, _ = ready.pop()
            reply.state = Writing.WAITS
            self._queue.appendleft((turn, reply))
            self.grown.emit(reply)
        self._generating, ids = self._engine.generate([asked for *_, asked in ready])
        self._answers = {answer: (turn, reply) for answer, (turn, reply, _) in zip(ids, ready, strict=True)}
        self._writing = ready[0][:2]

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
            case events.TextGenerated() if event_id in self._answers:
                self._grow(self._answers[event_id][1], event)
            case events.GenerationFinished() if event_id in self._answers:
                self._finish(event)
            case events.LoadingProgress() if self._loading is None:
                self._loaded = None  # for an evaluation, say
            case events.RunStarted() | events.ExportProgress() | events.ExportFinished():
                self._loaded = None  # another model may stand on the device now

    def _on_loaded(self, event: events.ModelLoaded) -> None:
        assert self._loading is not None
        wanted = self._loading[1]
        if event.model == self._folder_of(wanted.model):
            self._base, self._loaded = self._loading[0], wanted
            self._loading = None
            self._advance()

    def _grow(self, reply: Reply, event: events.TextGenerated) -> None:
        if reply.state is Writing.WRITING and reply.ended:
            return  # a stop word was written: the engine goes on for a few tokens
        reply.state = Writing.WRITING
        text = reply.text + event.text
        reply.text, reply.tokens = self._before_stop_word(text), event.tokens
        if len(reply.text) < len(text):
            reply.ended = "stop_word"
            self._engine.say(commands.StopGenerating(id=event.id))
        self.grown.emit(reply)

    def _before_stop_word(self, text: str) -> str:
        places = [place for word in self.stop_words if (place := text.find(word)) >= 0]
        return text[: min(places)].rstrip() if places else text

    def _finish(self, event: events.GenerationFinished) -> None:
        turn, reply = self._answers.pop(event.id)
        at_stop_word = bool(reply.ended)
        if not at_stop_word:
            reply.text = self._before_stop_word(event.reply)
            at_stop_word = len(reply.text) < len(event.reply)
        reply.tokens = event.tokens
        reply.tokens_per_second = event.tokens_per_second
        reply.first_token_seconds = event.first_token_seconds
        if turn in self.turns:
            self.context_used += event.tokens
        self._end(reply, Writing.DONE, ended="stop_word" if at_stop_word else event.ended)

    def _on_engine_ended(self, reason: str) -> None:
        self._loading = None
        self._on_failed(Problem(f"The engine ended ({reason}).", "Ask again: it is started anew."))

    def _on_engine_forgot(self) -> None:
        self._loaded = None

    def _on_failed(self, problem: Problem) -> None:
        self._job = None
        failed = list(self._answers.values()) or ([self._writing] if self._writing is not None else [])
        self._answers = {}
        for turn, reply in failed:
            reply.problem = problem
            self._drop([waiting for waiting in self._queue if waiting[0] is turn])
        for _, reply in failed[1:]:
            reply.state = Writing.FAILED
            self.grown.emit(reply)
        if failed:
            self._end(failed[0][1], Writing.FAILED)

    def _end(self, reply: Reply, state: Writing, ended: str = "") -> None:
        reply.state, reply.ended = state, ended
        self._writing = next(iter(self._answers.values()), None)
        if self._writing is None:
            self._generating = None
        if self._job is not None:
            self._job.cancel()
            self._job = None
        self._keep()
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
        if side == LEFT or self.tuned is None:
            return None
        return str([self.tuned, *self.also][side - RIGHT].folder)

    def _seed_of(self, reply: Reply) -> int:
        apart = 0 if self.same_seed else SIDE_SEED * reply.side
        return (self.sampling.seed + reply.attempt + apart) % 2**31

    def _messages(self) -> tuple[Message, ...]:
        """What this adapter, or else this side, has heard and said so far."""
        assert self._writing is not None
        return self._heard(*self._writing, self.left_out)

    def _heard(self, turn: Turn, reply: Reply, left_out: int = 0) -> tuple[Message, ...]:
        said = [Message("system", self.system)] if self.system.strip() else []
        for earlier in self.branches.said_before(turn)[left_out:]:
            answer = earlier.reply_before(reply)
            if answer is not None and answer.text:
                said += [Message("user", earlier.text), Message("assistant", answer.text)]
        return (*said, Message("user", turn.text))

    def _new_base(self, model: ModelConfig) -> None:
        self.stop()
        self._keep()
        self._begin()
        self._of_model(model)

    def _on_runs(self, found: list[Tuned], wanted: Path | None) -> None:
        self.choices = found
        of_run = next((tuned for tuned in found if wanted is not None and tuned.run.folder == wanted), None)
        if of_run is not None:
            self.choose_tuned(of_run)
        elif self._follows_draft:
            model = self._draft.value("model.path")
            own = [tuned for tuned in found if tuned.model.path == model and not tuned.is_model]
            self.model = self._draft.config.model
            self._put_beside(own[0] if own else None)
        else:
            if self._chosen is not None and self.tuned is None and not self.busy:
                self._choose_as_it_was(self._chosen)
            self.changed.emit()

    @property
    def _follows_draft(self) -> bool:
        """Nothing was said, and nothing was chosen here after the draft's model."""
        return self.tuned is None and not self.turns and self._draft.value("model.path") != self._draft_then


def _is_short(asked: dict[str, Any]) -> bool:
    """Whether a prompt may stand in one command with others."""
    return len(asked["prompt_ids"]) <= _LONGEST_TOGETHER
