"""The local endpoint: other programs of this machine ask the models of the chat, as long as it is shown."""

from __future__ import annotations

import secrets
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject

from qlora_studio.config.run_config import SAMPLE
from qlora_studio.data.conversation import Message
from qlora_studio.errors import StudioError
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.state.chat import ChatState
from qlora_studio.state.chat_turns import Tuned
from qlora_studio.state.engine import EngineState
from qlora_studio.state.model_work import ModelWork
from qlora_studio.state.reader import Job, Reader
from qlora_studio.state.sample_model import SampleModel

if TYPE_CHECKING:  # http.server is loaded with the first start
    from qlora_studio.client.endpoint_thread import EndpointThread, Exchange

BASE = "base"  # what the model without an adapter is called there
MOST_WAITING = 16
REFUSED, FAILED, BUSY = 400, 500, 503  # HTTP: never; not this time; another time
_ENDED = {"length": "length", "context": "length"}  # all other ends are "stop"


class EndpointState(ModelWork):
    """Requests wait for each other: the device has one engine."""

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
        self._thread: EndpointThread | None = None
        self._model = chat.model
        self._served: dict[str, Tuned | None] = {}
        self._waiting: deque[Exchange] = deque()
        self._answering: Exchange | None = None
        self._cut: StopWords | None = None
        self._prompt_tokens = 0
        self._checked: set[str] = set()
        self._alone = False  # a merged model without adapters
        self._base = 0  # id of the command that loaded the model; 0: none did
        self._loading: int | None = None
        self._generating: int | None = None
        self.token = ""
        self.answered = 0
        self.problem: Problem | None = None
        engine.forgot.connect(self._on_engine_forgot)

    # What is shown ----------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._thread is not None

    @property
    def url(self) -> str:
        """What other programs call the base URL; empty where it doesn't listen."""
        return f"http://127.0.0.1:{self._thread.port}/v1" if self._thread is not None else ""

    @property
    def models(self) -> tuple[str, ...]:
        """By the names they are asked by."""
        return tuple(self._served)

    @property
    def waiting(self) -> int:
        """Requests that aren't answered yet."""
        return len(self._waiting) + (self._answering is not None)

    @property
    def command(self) -> str:
        """A request that can be pasted into a terminal."""
        said = '{"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}'  # no name holds a quote
        return (
            f"curl {self.url}/chat/completions -H 'Content-Type: application/json' "
            f"-H 'Authorization: Bearer {self.token}' -d '{said % self.models[-1]}'"
            if self.running
            else ""
        )

    # What is asked ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Serves base and adapters as they are chosen in the chat now, under a token of this time alone."""
        from qlora_studio.client.endpoint_thread import EndpointThread

        if self._thread is not None:
            return
        self.problem = None
        self._model, self._base, self._loading = self._chat.model, 0, None
        self._served = _named([self._chat.tuned, *self._chat.also])
        self.token = secrets.token_urlsafe(32)
        self.answered = 0
        try:
            self._thread = EndpointThread(self.token, self.models, self)
        except StudioError as error:
            self.problem = Problem(error.message, error.hint)
            self.changed.emit()
            return
        self._thread.asked.connect(self._on_asked)
        self._thread.left.connect(self._on_left)
        self._thread.start()
        self.changed.emit()

    def stop(self) -> None:
        """Nothing listens any more; what is being answered ends."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        thread.end()  # tells all who wait
        thread.deleteLater()
        self._waiting.clear()
        self._drop()
        self._served, self.token = {}, ""
        self.changed.emit()

    # One request after the other ------------------------------------------------------------------------

    def _on_asked(self, exchange: Exchange) -> None:
        if len(self._waiting) >= MOST_WAITING or self._thread is None:
            exchange.fail(BUSY, "Too many requests wait for an answer.")
            return
        self._waiting.append(exchange)
        self._next()
        self.changed.emit()

    def _on_left(self, exchange: Exchange) -> None:
        """Its client hung up."""
        if exchange in self._waiting:
            self._waiting.remove(exchange)
        elif exchange is self._answering:
            self._drop()
            self._next()
        self.changed.emit()

    def _next(self) -> None:
        if self._answering is None and self._waiting:
            self._answering = self._waiting.popleft()
            self._advance()

    def _advance(self) -> None:
        """The next thing that the request in hand needs, unless it is on its way."""
        on_its_way = self._job is not None or self._loading is not None or self._generating is not None
        if self._answering is None or on_its_way:
            return
        model = self._folder()
        tuned = self._served[self._answering.request.model]
        adapter = str(tuned.folder) if tuned is not None else None
        if held := self._engine.held:
            self._fail(BUSY, held)
        elif self._model.path == SAMPLE and not self._sample_model.ready:
            self._sample_model.make()
        elif model not in self._checked:
            self._ask(reading.CheckModel, self._on_model_checked, folder=model)
        elif adapter is not None and adapter not in self._checked:
            self._ask(
                reading.CheckAdapter, partial(self._on_adapter_checked, adapter), folder=adapter, base=model
            )
        elif self._base:  # the engine loads it again where other work took its place
            self._encode()
        else:
            self._loading = self._engine.command(
                commands.LoadModel,
                model=model,
                quantization=self._model.quantization,
                double_quant=self._model.double_quant,
                compute_dtype=self._model.compute_dtype,
                alone=self._alone and len(self._served) == 1,
            )

    def _on_model_checked(self, answer: reading.ModelChecked) -> None:
        self._checked.add(self._folder())
        self._alone = answer.report.merged
        self._advance()

    def _on_adapter_checked(self, adapter: str, _: object) -> None:
        self._checked.add(adapter)
        self._advance()

    def _encode(self) -> None:
        assert self._answering is not None
        request = self._answering.request
        tuned = self._served[request.model]
        self._ask(
            reading.EncodeChat,
            self._on_encoded,
            model=self._folder(),
            messages=tuple(
                Message("system" if said.role == "developer" else said.role, said.text)
                for said in request.messages
            ),
            run=str(tuned.run.folder) if tuned is not None else "",
            trained=True,
        )

    def _on_encoded(self, answer: reading.ChatEncoded) -> None:
        if self._answering is None:
            return
        if not self._base:  # the engine's process ended meanwhile
            self._advance()
            return
        if len(answer.ids) >= answer.context:
            self._fail(
                REFUSED, f"The chat has {len(answer.ids):,} tokens; the model holds {answer.context:,}."
            )
            return
        request = self._answering.request
        tuned = self._served[request.model]
        self._cut, self._prompt_tokens = StopWords(request.stop_words), len(answer.ids)
        self._generating = self._engine.command(
            commands.Generate,
            base=self._base,
            prompt_ids=answer.ids,
            adapter=str(tuned.folder) if tuned is not None else None,
            stop_ids=answer.stop_ids,
            sampling=request.sampling,
        )

    def _on_heard(self, event: events.EngineEvent) -> None:
        if self._loading is not None and isinstance(event, events.ModelLoaded) and not self._engine.training:
            self._on_loaded(event)
            return
        event_id = getattr(event, "id", 0)
        if isinstance(event, events.CommandFailed) and event_id in (self._loading, self._generating):
            self._base = 0  # whatever is loaded, the next one asks for its model
            self._loading = self._generating = None
            self._fail(FAILED, _in_words(event.error))
        if self._answering is None:
            return
        match event:
            case events.TextGenerated() if event_id == self._generating and self._cut is not None:
                self._answering.say(self._cut.add(event.text))
                if self._cut.found:
                    self._finish("stop", event.tokens)
                    self._engine.say(commands.StopGenerating(id=event_id))
                    self._next()
            case events.GenerationFinished() if event_id == self._generating and self._cut is not None:
                self._answering.say(self._cut.rest())
                self._finish(_ENDED.get(event.ended, "stop"), event.tokens)
                self._next()

    def _on_loaded(self, event: events.ModelLoaded) -> None:
        if event.model == self._folder() and self._loading is not None:
            self._base, self._loading = self._loading, None
            self._advance()

    def _finish(self, ended: str, tokens: int) -> None:
        assert self._answering is not None
        self._answering.finish(ended, self._prompt_tokens, tokens)
        self.answered += 1
        self._answering = self._generating = self._cut = None
        self.changed.emit()

    def _on_refused(self, problem: Problem, job: Job) -> None:
        self._fail(REFUSED, _in_words(problem))

    def _fail(self, status: int, message: str) -> None:
        if self._answering is not None:
            self._answering.fail(status, message)
        self._drop()
        self._next()
        self.changed.emit()

    def _drop(self) -> None:
        """The request in hand is none any more."""
        if self._generating is not None:
            self._engine.say(commands.StopGenerating(id=self._generating))
        self._give_up_job()
        self._answering = self._generating = self._cut = None

    def _on_engine_ended(self, reason: str) -> None:
        waits = self._loading is not None or self._generating is not None
        self._loading = self._generating = None
        if waits:
            self._fail(BUSY, f"The engine ended ({reason}).")

    def _on_engine_forgot(self) -> None:
        self._base = 0

    def _on_sample_failed(self, problem: Problem) -> None:
        if self._answering is not None and self._job is None and self._loading is None:
            self._fail(REFUSED, _in_words(problem))

    def _folder(self) -> str:
        return str(self._sample_model.folder) if self._model.path == SAMPLE else self._model.path


class StopWords:
    """A reply that grows, as far as no stop word can begin in it. found: one was written; it ends there."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words
        self._kept = ""  # may be the beginning of one
        self.found = False

    def add(self, text: str) -> str:
        """What can be said now."""
        if self.found:
            return ""
        text = self._kept + text
        places = [place for word in self._words if (place := text.find(word)) >= 0]
        if places:
            self.found = True
            return text[: min(places)]
        kept = max((_overlap(text, word) for word in self._words), default=0)
        said, self._kept = text[: len(text) - kept], text[len(text) - kept :]
        return said

    def rest(self) -> str:
        """At the end: what was no stop word after all."""
        return "" if self.found else self._kept


def _in_words(problem: Problem) -> str:
    return f"{problem.message} {problem.hint}".strip()


def _overlap(text: str, word: str) -> int:
    """The longest end of the text that the word begins with."""
    longest = min(len(word) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(word[:size])), 0)


def _named(tuned: list[Tuned | None]) -> dict[str, Tuned | None]:
    """By the names they are asked by: the folder's, which no two runs share; no quote is in it."""
    served: dict[str, Tuned | None] = {BASE: None}
    for item in tuned:
        if item is not None:
            name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in item.name)
            served[name if name not in served else f"{name}-{len(served)}"] = item
    return served
