"""The arena of the window: prompts answered by base and adapters, judged without names, and the standing."""

from __future__ import annotations

import time
from enum import Enum
from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from qlora_studio.config import places
from qlora_studio.config.run_config import SAMPLE, ModelConfig
from qlora_studio.data.conversation import Message
from qlora_studio.errors import StudioError
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.arena import (
    MOST_PLAYERS,
    Arena,
    Pair,
    Player,
    Standing,
    missing_answers,
    missing_judgements,
    new_arena,
    next_pair,
    read_arena,
    save_arena,
    standing,
    votes_as_csv,
    with_answer,
    with_judge,
    with_judgement,
    with_vote,
    without_last_vote,
)
from qlora_studio.runs.arena_judge import JUDGE_TOKENS, judge_question, judgement_of
from qlora_studio.state.background import Background
from qlora_studio.state.chat import ChatState
from qlora_studio.state.engine import EngineState
from qlora_studio.state.model_work import ModelWork
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

BOTH_WAYS = 2  # times that a judge is asked about the same two answers


class Stage(Enum):
    """Whether answers are being written."""

    RESTING = "resting"
    PREPARING = "preparing"  # prompts are read, model and adapters checked and loaded
    ANSWERING = "answering"


class ArenaState(ModelWork):
    """saved: the file with all votes."""

    saved = Signal(object)

    def __init__(
        self,
        chat: ChatState,
        engine: EngineState,
        reader: Reader,
        sample_model: SampleModel,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(engine, reader, sample_model, parent)
        self._chat = chat
        self._disk = Background("arena", self)
        self._command: int | None = None  # of the engine's, that is waited for
        self._checked: set[str] = set()
        self._base = 0  # id of the command that loaded what answers now; 0: none did
        self._writing: tuple[int, int] | None = None  # prompt, player
        self._judge = ""  # the folder of the one that is asked, in place of the players; empty: none is
        self._weighed: Pair | None = None  # what it is asked about
        self._said: list[str] = []  # of that, one way round and the other
        self._looked = False
        self.path: Path | None = None
        self.arena: Arena | None = None
        self.pair: Pair | None = None  # that is to be judged
        self.standing: Standing | None = None  # None: it isn't counted yet
        self.stage = Stage.RESTING
        self.words = ""
        self.problem: Problem | None = None
        engine.forgot.connect(self._on_engine_forgot)

    # What is shown ----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether answers are on their way."""
        return self.stage is not Stage.RESTING

    @property
    def why_no_start(self) -> str:
        """Why no new arena can begin, in words; empty where one can."""
        if self._engine.held:
            return self._engine.held
        if self.busy:
            return "Answers are being written."
        if self._chat.own_model is not None:
            return "All weights of this model were trained: an arena is for a base and its adapters."
        return "" if self._chat.tuned is not None else "Choose a tuned model first: an arena needs two sides."

    @property
    def why_no_judge(self) -> str:
        """Why no judge can be asked now, in words; empty where one can."""
        return self._engine.held or ("Answers are being written." if self.busy else "")

    @property
    def players(self) -> tuple[Player, ...]:
        """Of the next arena: base and what is chosen beside it in the chat."""
        tuned = [self._chat.tuned, *self._chat.also] if self._chat.tuned is not None else []
        own = [
            Player(name=item.name, adapter=str(item.folder), run=str(item.run.folder))
            for item in tuned
            if item is not None
        ]
        return (Player(name="Base"), *own[: MOST_PLAYERS - 1])

    @property
    def answered(self) -> tuple[int, int]:
        """Answers that are there, and all."""
        if self.arena is None:
            return 0, 0
        every = len(self.arena.prompts) * len(self.arena.players)
        return every - len(missing_answers(self.arena)), every

    @property
    def progress(self) -> tuple[int, int]:
        """Of what goes on, or of the answers: what is there, and all."""
        if self.arena is None or not self._judge:
            return self.answered
        judged = with_judge(self.arena, self._judge)
        there = len(judged.judgements)
        return there, there + len(missing_judgements(judged))

    # What is asked ----------------------------------------------------------------------------------

    def look(self) -> None:
        """Opens the newest arena, once."""
        if not self._looked and self.arena is None:
            self._looked = True
            self._disk.do(_newest, self._on_opened, self._on_disk_error)

    def begin(self, file: str) -> None:
        """Reads the prompts; then base and adapters answer them."""
        if not self.why_no_start:
            self.problem = None
            self._now(Stage.PREPARING, "Reading the prompts")
            self._ask(reading.ReadPrompts, self._on_prompts, path=file)

    def go_on(self) -> None:
        """Writes the answers that are missing."""
        if self.arena is not None and not self.busy and not self._engine.training:
            self.problem, self._base = None, 0
            self._now(Stage.PREPARING, "Checking model and adapters")
            self._advance()

    def ask_judge(self, model: str) -> None:
        """A local model's folder: it judges every two answers, both ways round.

        What another one said is kept until this one has judged.
        """
        if self.arena is not None and not self.why_no_judge:
            self.problem, self._base, self._judge = None, 0, model
            self._now(Stage.PREPARING, "Checking the judge")
            self._advance()

    def stop(self) -> None:
        """What is answered stays; the rest can be written later."""
        asked = self._writing is not None or self._weighed is not None
        if asked and self._command is not None and self._base:
            self._engine.say(commands.StopGenerating(id=self._command))
        self._rest()

    def vote(self, winner: int) -> None:
        """winner: a player of the pair in hand, or TIE."""
        if self.arena is not None and self.pair is not None:
            self._take(with_vote(self.arena, self.pair, winner))

    def take_back(self) -> None:
        """The last vote."""
        if self.arena is not None and self.arena.votes:
            self._take(without_last_vote(self.arena))

    def count(self) -> None:
        """Ends in a `standing`."""
        if self.arena is not None:
            self._disk.do(partial(standing, self.arena), partial(self._on_counted, self.arena))

    def save_votes(self, path: Path) -> None:
        """As CSV. Ends in `saved` or a `problem`."""
        if self.arena is not None:
            self._disk.do(partial(_write_votes, path, self.arena), self.saved.emit, self._on_disk_error)

    def wait(self) -> None:
        """What was judged is on the disk when this returns."""
        self._disk.wait()

    # One answer after the other ------------------------------------------------------------------------

    def _advance(self) -> None:
        """The next thing that is needed."""
        if not self.busy or self.arena is None or self._job is not None:
            return
        model = self._folder()
        config = self._config()
        players = () if self._judge else self.arena.players
        unknown = [item.adapter for item in players if item.adapter and item.adapter not in self._checked]
        if self._engine.training:
            self._fail(Problem(self._engine.held, "Pause it, or wait."))
        elif config.path == SAMPLE and not self._sample_model.ready:
            self._now(Stage.PREPARING, "Unpacking the sample model, once")
            self._sample_model.make()
        elif model not in self._checked:
            self._ask(reading.CheckModel, partial(self._on_checked, model), folder=model)
        elif unknown:
            self._ask(
                reading.CheckAdapter, partial(self._on_checked, unknown[0]), folder=unknown[0], base=model
            )
        elif not self._base:
            self._now(Stage.PREPARING, "Loading the model")
            self._command = self._engine.command(
                commands.LoadModel,
                model=model,
                quantization=config.quantization,
                double_quant=config.double_quant,
                compute_dtype=config.compute_dtype,
            )
        elif self._judge:
            self._weigh(missing_judgements(with_judge(self.arena, self._judge)))
        elif missing := missing_answers(self.arena):
            self._encode(*missing[0])
        else:
            self._rest()

    def _encode(self, prompt: int, player: int) -> None:
        assert self.arena is not None
        self._writing = (prompt, player)
        self._now(Stage.ANSWERING, "Answering")
        self._ask(
            reading.EncodeChat,
            self._on_encoded,
            model=self._folder(),
            messages=(Message("user", self.arena.prompts[prompt]),),
            run=self.arena.players[player].run,
            trained=True,
        )

    def _weigh(self, missing: list[Pair]) -> None:
        """The next two answers, or the same ones the other way round."""
        assert self.arena is not None
        if not missing:
            self._rest()
            return
        if missing[0] != self._weighed:
            self._weighed, self._said = missing[0], []
        self._now(Stage.ANSWERING, "Judging")
        question = judge_question(self.arena, missing[0], backwards=bool(self._said))
        self._ask(
            reading.EncodeChat,
            self._on_encoded,
            model=self._folder(),
            messages=(Message("user", question),),
        )

    def _on_encoded(self, answer: reading.ChatEncoded) -> None:
        if self.arena is None or (self._writing is None and self._weighed is None):
            return
        if not self._base:  # the engine's process ended meanwhile
            self._advance()
            return
        if len(answer.ids) >= answer.context:
            self._answer("")  # no model can say anything to it: all have the same nothing
            return
        adapter = None if self._writing is None else self.arena.players[self._writing[1]].adapter
        sampling = (
            commands.Sampling(greedy=True, max_tokens=JUDGE_TOKENS)
            if self._writing is None
            else commands.Sampling(
                greedy=self.arena.greedy, max_tokens=self.arena.max_tokens, seed=self.arena.seed
            )
        )
        self._command = self._engine.command(
            commands.Generate,
            base=self._base,  # the endpoint's model may have taken its place
            prompt_ids=answer.ids,
            adapter=adapter,
            stop_ids=answer.stop_ids,
            sampling=sampling,
        )

    def _answer(self, text: str) -> None:
        assert self.arena is not None
        self._command = None
        if self._writing is not None:
            self._take(with_answer(self.arena, *self._writing, text))
            self._writing = None
        elif self._weighed is not None:
            self._said.append(text)
            if len(self._said) == BOTH_WAYS:
                judgement = judgement_of(self._weighed, *self._said)
                self._weighed, self._said = None, []
                self._take(with_judgement(with_judge(self.arena, self._judge), judgement))
        self._advance()

    def _on_prompts(self, answer: reading.PromptsRead) -> None:
        sampling = self._chat.sampling
        try:
            arena = new_arena(
                Arena(
                    model=self._chat.model,
                    players=self.players,
                    prompts=answer.prompts,
                    seed=sampling.seed,
                    max_tokens=sampling.max_tokens,
                    greedy=sampling.greedy,
                )
            )
        except StudioError as error:
            self._fail(Problem(error.message, error.hint))
            return
        self.path = places.arenas_folder() / f"{time.strftime('%Y-%m-%d-%H%M%S')}.json"
        self._take(arena)
        self._rest()
        self.go_on()

    def _on_checked(self, folder: str, _: object) -> None:
        self._checked.add(folder)
        self._advance()

    def _on_heard(self, event: events.EngineEvent) -> None:
        if self._command is None:
            return
        match event:
            case events.ModelLoaded() if not self._base and event.model == self._folder():
                self._base, self._command = self._command, None
                self._advance()
            case events.GenerationFinished() if event.id == self._command:
                self._answer(event.reply)
            case events.CommandFailed() if event.id == self._command:
                self._fail(event.error)

    def _on_engine_ended(self, reason: str) -> None:
        if self._command is not None:
            self._fail(Problem(f"The engine ended ({reason}).", "Go on: what is answered is kept."))

    def _on_engine_forgot(self) -> None:
        self._base = 0

    def _on_refused(self, problem: Problem, job: Job) -> None:
        self._fail(problem)

    def _on_sample_failed(self, problem: Problem) -> None:
        if self.stage is Stage.PREPARING and self._job is None:
            self._fail(problem)

    # What came of it ----------------------------------------------------------------------------------

    def _take(self, arena: Arena) -> None:
        """From now on, and on the disk."""
        assert self.path is not None
        self.arena, self.standing = arena, None
        self.pair = next_pair(arena)
        self._disk.do(partial(save_arena, self.path, arena), lambda _: None, self._on_disk_error)
        self.changed.emit()

    def _on_opened(self, opened: tuple[Path, Arena] | None) -> None:
        if opened is not None and self.arena is None and not self.busy:
            self.path, self.arena = opened
            self.pair = next_pair(self.arena)
            self.changed.emit()

    def _on_counted(self, arena: Arena, found: Standing) -> None:
        if arena is self.arena:
            self.standing = found
            self.changed.emit()

    def _on_disk_error(self, error: StudioError) -> None:
        self.problem = Problem(error.message, error.hint)
        self.changed.emit()

    def _fail(self, problem: Problem) -> None:
        self.problem = problem
        self._rest()

    def _rest(self) -> None:
        self._give_up_job()
        self._command = self._writing = self._weighed = None
        self._judge = ""
        self._now(Stage.RESTING, "")

    def _config(self) -> ModelConfig:
        """Of the model that is asked now."""
        assert self.arena is not None
        return ModelConfig(path=self._judge) if self._judge else self.arena.model

    def _folder(self) -> str:
        path = self._config().path
        return str(self._sample_model.folder) if path == SAMPLE else path

    def _now(self, stage: Stage, words: str) -> None:
        self.stage, self.words = stage, words
        self.changed.emit()


def _newest() -> tuple[Path, Arena] | None:
    """None: there is none, or it can't be read, and nobody asked for it."""
    folder = places.arenas_folder()
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
        return (paths[-1], read_arena(paths[-1])) if paths else None
    except (OSError, StudioError):
        return None


def _write_votes(path: Path, arena: Arena) -> Path:
    try:
        path.write_text(votes_as_csv(arena), "utf-8")
    except OSError as error:
        raise StudioError(f"{path} could not be written: {error.strerror}.") from error
    return path
