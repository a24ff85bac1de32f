"""Chat: one base on the device, replies by it or by any of its adapters, told as they are written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from qlora_studio.config.run_config import SHAPE_PREFIX, ModelConfig
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.architecture import architecture_of
from qlora_studio.engine.compute_dtype import name_of, resolve_compute_dtype
from qlora_studio.engine.continuation import (
    Continuation,
    KeptSteps,
    SideBySide,
    can_go_on_side_by_side,
    continuation_of,
)
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import BaseModel
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.reply_text import ReplyText
from qlora_studio.engine.source_continuation import SourceContinuation
from qlora_studio.engine.token_choice import Chosen, TokenChoice
from qlora_studio.errors import StudioError
from qlora_studio.memory.chat_need import chat_bytes, need_words
from qlora_studio.models.check import model_folder
from qlora_studio.models.merged import is_merged
from qlora_studio.models.shapes import model_shape
from qlora_studio.protocol.commands import Generate, LoadModel
from qlora_studio.protocol.events import GenerationFinished, LoadingProgress, ModelLoaded, TextGenerated

_HEADROOM = 1.2  # of memory for weights as they are merged, over these alone
_TELL_EVERY_S = 0.05  # a window that paints each token of a fast model has no time for anything else


class Chat:
    """Answers with the model that the holder has, whatever was done with it before."""

    def __init__(self, holder: ModelHolder) -> None:
        self._holder = holder
        self._language: _Language | None = None
        self._kept = KeptSteps()
        self._bases: dict[int, tuple[str, Storage]] = {}  # by the id of the command that asked for it

    def rest(self) -> None:
        """Frees what a reply left to the next one: other work needs the memory."""
        self._kept.forget()

    def load(self, command: LoadModel) -> Iterator[LoadingProgress | ModelLoaded]:
        """What is on the device already isn't loaded again. Raises: StudioError."""
        device = self._holder.device
        dtype = resolve_compute_dtype(command.compute_dtype, device)
        storage, note = _storage_for(command, dtype, self._holder)
        _require_room(command.model, storage, self._holder)
        adapted = yield from self._holder.hold(command.model, storage)
        for folder in command.adapters.values():
            adapted.add_from(Path(folder))
        adapted.use(None)
        self._bases[command.id] = command.model, storage
        self._language_of(adapted.base)
        yield ModelLoaded(
            model=command.model,
            parameters=adapted.base.parameters,
            trainable_parameters=0,
            seconds=adapted.base.seconds,
            device_name=device.name,
            compute_dtype=name_of(dtype),
            notes=(note,) if note else (),
        )

    def answer(
        self, command: Generate, stopped: Callable[[], bool]
    ) -> Iterator[LoadingProgress | TextGenerated | GenerationFinished]:
        """`stopped` is asked before each token. Raises: StudioError."""
        adapted = yield from self._base_of(command)
        reply = _Reply(adapted.base, self._language_of(adapted.base), command)
        adapted.use(_adapter_in_memory(adapted, command))
        writer = _Writer(reply, continuation_of(adapted.causal_lm, self._kept))
        while not reply.ended:
            if stopped():
                reply.ended = "stopped"
            else:
                writer.write_token()
            yield from reply.news()

    def answer_each(
        self, commands: Sequence[Generate], is_stopped: Callable[[int], bool]
    ) -> Iterator[LoadingProgress | TextGenerated | GenerationFinished]:
        """All by one base, at once where a card can; else one after the other. As `answer`.

        is_stopped: of the id of a reply
        """
        adapted = yield from self._base_of(commands[0])
        language = self._language_of(adapted.base)
        replies = [_Reply(adapted.base, language, command) for command in commands]
        adapters = [_adapter_in_memory(adapted, command) for command in commands]
        writer = self._begun_together(adapted, adapters, replies)
        if writer is None:
            for command in commands:
                yield from self.answer(command, partial(is_stopped, command.id))
            return
        while writing := [reply for reply in replies if not reply.ended]:
            for reply in writing:
                if is_stopped(reply.command.id):
                    reply.ended = "stopped"
            writer.write_tokens()
            for reply in writing:
                yield from reply.news()

    def _begun_together(
        self, adapted: AdaptedModel, adapters: Sequence[str | None], replies: Sequence[_Reply]
    ) -> _WriterOfSeveral | None:
        """Has read the prompts; None: these texts don't fit on the card together. One alone may."""
        if not can_go_on_side_by_side(adapted, adapters):
            return None
        writer = _WriterOfSeveral(replies, SideBySide(adapted, adapters, self._kept))
        try:
            writer.begin()
        except torch.OutOfMemoryError:
            self._kept.forget()
        else:
            return writer
        del writer  # it has the memory of all texts
        self._holder.device.empty_cache()  # here nothing holds the error and its tensors any more
        return None

    def _base_of(self, command: Generate) -> Generator[LoadingProgress, None, AdaptedModel]:
        """The one that the prompt was encoded for. Raises: StudioError."""
        if command.base in self._bases:
            model, storage = self._bases[command.base]
            if not self._holder.holds(model, storage):
                self._kept.forget()
                _require_room(model, storage, self._holder)
            return (yield from self._holder.hold(model, storage))
        if command.base or self._holder.held is None:
            raise StudioError("No model is loaded to chat with.", hint="Choose a model, then send again.")
        return self._holder.held

    def _language_of(self, base: BaseModel) -> _Language:
        if self._language is None or self._language.source != base.source:
            self._language = _read_language(base)
        return self._language


def _storage_for(command: LoadModel, dtype: torch.dtype, holder: ModelHolder) -> tuple[Storage, str]:
    """As asked, but a model of ours alone as it was written; and what a person should know of it.

    Its adapter's change is smaller than the steps of 4 bit: quantized again, SmolLM2 after 30 updates gave
    the very answers of its base.
    """
    asked = Storage(command.quantization, command.double_quant, dtype)
    if not command.alone or asked.quantization == "none" or command.model.startswith(SHAPE_PREFIX):
        return asked, ""
    folder = model_folder(command.model)
    if not is_merged(folder):
        return asked, ""
    needed = int(model_shape(command.model).parameters * dtype.itemsize * _HEADROOM)
    held = holder.held.base.weight_bytes if holder.held else 0
    if needed <= holder.device.free_bytes() + held:
        return Storage("none", False, dtype), ""
    return asked, (
        f"What {folder.name} learned lies in its 16-bit weights. They take {needed / 2**30:.1f} GiB, more "
        f"than is free, so they are quantized to {asked.quantization.upper()}: some of it is lost."
    )


def _require_room(model: str, storage: Storage, holder: ModelHolder) -> None:
    """Another engine may train on this device: what can't fit isn't begun, and takes no run its memory.

    Raises: StudioError.
    """
    if holder.holds(model, storage):
        return
    device = holder.device
    free = device.free_bytes() + (holder.held.base.weight_bytes if holder.held else 0)
    stored = msgspec.structs.replace(
        ModelConfig(),
        quantization=storage.quantization,
        double_quant=storage.double_quant,
        compute_dtype=name_of(storage.compute_dtype),
    )
    needed = chat_bytes(model_shape(model), stored, device.kind, free)
    if needed > free:
        raise StudioError(
            f"A chat with {Path(model).name} {need_words(needed, free)} on {device.name}. It was not loaded.",
            hint="Pause the run or close the program that has the rest, or choose a smaller model.",
        )


@dataclass(frozen=True)
class _Language:
    """A model's tokens as text, and those that end a reply."""

    source: str
    decode: Callable[[Sequence[int]], str]
    stop_ids: frozenset[int]


def _read_language(base: BaseModel) -> _Language:
    if base.source.startswith(SHAPE_PREFIX):  # random weights have no tokenizer
        return _Language(base.source, lambda ids: "".join(f" {token}" for token in ids), frozenset())
    tokenizer = load_tokenizer(Path(base.source))
    stop_ids = frozenset((*base.stop_ids, *tokenizer.special.stop_ids))
    return _Language(base.source, tokenizer.decode, stop_ids)


def _adapter_in_memory(adapted: AdaptedModel, command: Generate) -> str | None:
    """Its name; None: the base is asked. Raises: StudioError."""
    return adapted.add_from(Path(command.adapter)) if command.adapter else None


class _Reply:
    """One reply in the making.

    times: when each token was chosen, monotonic seconds; the one that ends the reply is among them
    ended: end | length | stopped | context, once it is complete
    """

    def __init__(self, base: BaseModel, language: _Language, command: Generate) -> None:
        """Raises: StudioError where the prompt or the sampling can't be."""
        self._start = time.monotonic()
        config = base.causal_lm.config
        self._context = architecture_of(config).context(config)
        _check_prompt(command.prompt_ids, base, self._context)
        self._choice = TokenChoice(command.sampling, base.device.torch_device)
        self._max_tokens = command.sampling.max_tokens
        self._stop_ids = language.stop_ids.union(command.stop_ids)
        self._text = ReplyText(language.decode)
        self._told = 0  # characters
        self._told_at = -math.inf  # the first token is told as soon as it is there
        self.command = command
        self.tokens: list[int] = []
        self.times: list[float] = []
        self.ended = ""

    @property
    def text(self) -> str:
        """All that can be said so far."""
        return self._text.text

    @property
    def tokens_per_second(self) -> float:
        """Of writing alone, after the first token; 0 where there is no second one."""
        seconds = self.times[-1] - self.times[0] if self.times else 0.0
        return (len(self.times) - 1) / seconds if seconds else 0.0

    def begin(self, logits: Tensor) -> Chosen:
        """The next token."""
        return self._choice.begin(logits, self.tokens)

    @property
    def goes_on_unread(self) -> bool:
        """Whether the token after the next can be begun before the next is read, or a card waits for Python.

        Where the next one turns out to end the reply, a step was made in vain.
        """
        read_then = len(self.tokens) + 1
        return (
            not self._choice.reads_reply
            and read_then < self._max_tokens
            and len(self.command.prompt_ids) + read_then <= self._context
        )

    def take(self, chosen: Chosen) -> None:
        """One token more, or the end."""
        token = chosen.read()
        self.times.append(time.monotonic())
        if token in self._stop_ids:
            self.ended = "end"
            return
        self.tokens.append(token)
        self._text.add(token)
        if len(self.tokens) >= self._max_tokens:
            self.ended = "length"
        elif len(self.command.prompt_ids) + len(self.tokens) > self._context:
            self.ended = "context"

    def news(self) -> Iterator[TextGenerated | GenerationFinished]:
        """What was added since this was last asked, where it is time to tell it; at the end all there is."""
        now = time.monotonic()
        if not self.ended and now - self._told_at < _TELL_EVERY_S:
            return
        self._told_at = now
        if self.ended:
            self._text.finish()
        if new := self.text[self._told :]:
            self._told = len(self.text)
            yield TextGenerated(id=self.command.id, text=new, tokens=len(self.tokens))
        if self.ended:
            yield GenerationFinished(
                id=self.command.id,
                reply=self.text,
                tokens=len(self.tokens),
                tokens_per_second=self.tokens_per_second,
                first_token_seconds=self.times[0] - self._start if self.times else 0.0,
                ended=self.ended,
            )


class _Writer:
    """Of one reply, by the adapter that is on."""

    def __init__(self, reply: _Reply, written: Continuation | SourceContinuation) -> None:
        self._reply = reply
        self._written = written
        self._ahead: Chosen | None = None  # the next token, where it was begun already

    def write_token(self) -> None:
        """One more, or the end."""
        reply, written = self._reply, self._written
        chosen = self._ahead or reply.begin(written.extend(reply.tokens[-1:] or reply.command.prompt_ids))
        runs_ahead = written.runs_ahead and reply.goes_on_unread
        self._ahead = reply.begin(written.extend_by(chosen.token)) if runs_ahead else None
        reply.take(chosen)


class _WriterOfSeveral:
    """Of replies that stand side by side: a token of each at a time, until all have ended."""

    def __init__(self, replies: Sequence[_Reply], texts: SideBySide) -> None:
        self._replies = replies
        self._texts = texts
        self._chosen: list[Chosen] = []  # the next token of each; of a reply that has ended its last

    def begin(self) -> None:
        """With the first token of each."""
        begun = self._texts.begin([reply.command.prompt_ids for reply in self._replies])
        self._chosen = [reply.begin(logits) for reply, logits in zip(self._replies, begun, strict=True)]

    def write_tokens(self) -> None:
        """One more of each that hasn't ended, or its end."""
        if all(reply.ended for reply in self._replies):
            return
        chosen = self._chosen
        runs_ahead = all(reply.ended or reply.goes_on_unread for reply in self._replies)
        ahead = self._after(chosen) if runs_ahead else None
        for reply, next_one in zip(self._replies, chosen, strict=True):
            if not reply.ended:
                reply.take(next_one)
        if not all(reply.ended for reply in self._replies):
            self._chosen = ahead or self._after(chosen)

    def _after(self, chosen: list[Chosen]) -> list[Chosen]:
        go_on = [not reply.ended for reply in self._replies]
        logits = self._texts.extend_by([one.token for one in chosen], go_on)
        return [
            reply.begin(logits[text]) if go_on[text] else chosen[text]
            for text, reply in enumerate(self._replies)
        ]


def _check_prompt(prompt: Sequence[int], base: BaseModel, context: int) -> None:
    vocabulary = base.causal_lm.get_input_embeddings().weight.shape[0]
    if not prompt:
        raise StudioError("There is nothing to answer: the prompt has no token.")
    if not all(0 <= token < vocabulary for token in prompt):
        raise StudioError(
            f"The prompt has tokens that {base.source} doesn't know.",
            hint="It was written for another model; send it again.",
        )
    if len(prompt) >= context:
        raise StudioError(
            f"The chat is {len(prompt):,} tokens long; the model holds {context:,}.",
            hint="Start a new chat, or shorten this one.",
        )
