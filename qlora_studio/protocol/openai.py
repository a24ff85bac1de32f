"""Chat completions as OpenAI's programs ask for them and take them: the part of that format we answer.

https://platform.openai.com/docs/api-reference/chat; what we don't do (tools, several choices) is refused.
"""

from __future__ import annotations

import secrets
from typing import Literal

import msgspec

from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Sampling

MOST_MESSAGES = 1_000
MOST_TOKENS = 8_192  # of a reply
MOST_STOP_WORDS = 4  # OpenAI's own limit
LONGEST_STOP_WORD = 1_000  # characters: each is sought in every piece of a reply, by the window
_DEFAULT_TOKENS = 512
_SEEDS = 2**31


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Of a message that is said in parts; images and sounds are none of ours."""

    text: str


class AskedMessage(msgspec.Struct, frozen=True):
    """`developer` is OpenAI's newer word for system."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[TextPart, ...]

    @property
    def text(self) -> str:
        """All parts of it."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions. Fields that we don't know change nothing."""

    model: str
    messages: tuple[AskedMessage, ...]
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | tuple[str, ...] | None = None
    n: int | None = None
    tools: tuple[object, ...] | None = None

    @property
    def stop_words(self) -> tuple[str, ...]:
        """A reply ends before the first of these."""
        words = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        return tuple(word for word in words if word)

    @property
    def sampling(self) -> Sampling:
        """As the engine takes it; a temperature of 0 is greedy. OpenAI's defaults: 1 and 1, no top-k.

        Without a seed it has another one each time.
        """
        temperature = 1.0 if self.temperature is None else self.temperature
        return Sampling(
            greedy=temperature == 0,
            temperature=temperature or 1.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=0,
            max_tokens=self.max_completion_tokens or self.max_tokens or _DEFAULT_TOKENS,
            seed=secrets.randbelow(_SEEDS) if self.seed is None else self.seed % _SEEDS,
        )


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One of GET /v1/models."""

    id: str
    created: int
    object: str = "model"
    owned_by: str = "qlora-studio"


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to GET /v1/models."""

    data: tuple[Model, ...]
    object: str = "list"


class SaidMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A whole reply, or what a chunk adds to it."""

    role: str = ""
    content: str | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The only one. finish_reason: stop | length"""

    message: SaidMessage
    finish_reason: str
    index: int = 0


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The same in a stream; the last chunk alone has a reason."""

    delta: SaidMessage
    finish_reason: str | None = None
    index: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """In tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to POST /v1/chat/completions."""

    id: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: Usage
    object: str = "chat.completion"


class Chunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A line of the stream."""

    id: str
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    object: str = "chat.completion.chunk"


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What OpenAI's libraries raise."""

    message: str
    type: str


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is none."""

    error: ErrorBody


def chat_request(body: bytes) -> ChatRequest:
    """Raises: StudioError saying which field can't be taken."""
    try:
        request = msgspec.json.decode(body, type=ChatRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StudioError(f"The request can't be read: {error}") from error
    if not 1 <= len(request.messages) <= MOST_MESSAGES:
        raise StudioError(f"messages must be 1 to {MOST_MESSAGES:,}.")
    if request.messages[-1].role != "user":
        raise StudioError("The last message must be the user's.")
    if request.n not in (None, 1):
        raise StudioError("n must be 1: one reply is written.")
    if request.tools:
        raise StudioError("Tools are not called here.")
    if len(request.stop_words) > MOST_STOP_WORDS:
        raise StudioError(f"stop takes up to {MOST_STOP_WORDS} words.")
    if any(len(word) > LONGEST_STOP_WORD for word in request.stop_words):
        raise StudioError(f"A word of stop may have {LONGEST_STOP_WORD:,} characters.")
    if not 0 <= (1.0 if request.temperature is None else request.temperature) <= 2:
        raise StudioError("temperature must be 0 to 2.")
    if not 0 < (1.0 if request.top_p is None else request.top_p) <= 1:
        raise StudioError("top_p must be over 0 and at most 1.")
    for tokens in (request.max_tokens, request.max_completion_tokens):
        if not 1 <= (1 if tokens is None else tokens) <= MOST_TOKENS:
            raise StudioError(f"max_tokens must be 1 to {MOST_TOKENS:,}.")
    return request
