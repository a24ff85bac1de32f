"""A model's chat template: a chat becomes the exact text the model sees. Foreign code, run in a sandbox."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from qlora_studio.config.places import resources_folder
from qlora_studio.data.conversation import Message, ToolCall
from qlora_studio.data.model_files import read_if_there, read_object
from qlora_studio.data.time_limit import TimeLimitError, time_limit
from qlora_studio.errors import StudioError

LARGEST_TEMPLATE = 64 * 1024  # bytes (S6)
LARGEST_OUTPUT = 1_000_000  # characters beside those of the chat itself
RENDER_SECONDS = 2.0

# A template that asks for today's date gets the day that Llama's templates write when they can't ask:
# the same rows on any day (D2), and in the chat what was trained.
_TODAY = datetime(2024, 7, 26)

_ANSWER_BEGINS = "\U000f0002answer-begins-{0}\U000f0003"
_ANSWER_ENDS = "\U000f0002answer-ends-{0}\U000f0003"


class ChatTemplate:
    """A compiled template. `origin`: the file it came from, for messages."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], origin: str) -> None:
        """Raises: StudioError where it is too long or no template."""
        self.source = source
        self.origin = origin
        if len(source.encode("utf-8", "surrogatepass")) > LARGEST_TEMPLATE:
            raise StudioError(f"The chat template in {origin} is longer than 64 KB.")
        self.sha256 = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        self._special_tokens = dict(special_tokens)
        nonce = secrets.token_hex(8)
        self.answer_begins, self.answer_ends = _ANSWER_BEGINS.format(nonce), _ANSWER_ENDS.format(nonce)
        environment = _environment()
        environment.globals["_answer_begins"] = self.answer_begins
        environment.globals["_answer_ends"] = self.answer_ends
        try:
            with time_limit(RENDER_SECONDS):
                self._template = environment.from_string(source)
        except Exception as error:  # foreign code: compiling folds its constants
            raise StudioError(
                f"The chat template in {origin} can't be compiled: {_in_words(error)}."
            ) from error

    @cached_property
    def marks_answers(self) -> bool:
        """Whether it says itself, with `{% generation %}`, what the model writes."""
        return "generation" in self.source and "endgeneration" in self.source

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        marked: bool = False,
    ) -> str:
        """The text the model sees; `marked`: with `answer_begins` and `answer_ends` around what it writes.

        Raises: StudioError with the template's own reason.
        """
        largest = LARGEST_OUTPUT + sum(len(message["content"]) for message in messages)
        blocks: list[str] = []
        length = 0
        try:
            with time_limit(RENDER_SECONDS):
                for block in self._template.generate(
                    **self._special_tokens,
                    messages=list(messages),
                    tools=tools,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    _marked=marked,
                ):
                    blocks.append(block)
                    length += len(block)
                    if length > largest:
                        raise StudioError(f"The chat template in {self.origin} wrote more than 1 MB.")
        except StudioError:
            raise
        except Exception as error:  # foreign code can raise anything
            raise StudioError(f"The chat template in {self.origin} fails: {_in_words(error)}.") from error
        return "".join(blocks)


def for_template(message: Message) -> dict[str, Any]:
    """A message under the names that templates ask for; what it hasn't is left out."""
    values: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        values["name"] = message.name
    if message.tool_call_id:
        values["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        values["reasoning_content"] = message.reasoning
    if message.tool_calls:
        values["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": _parsed(call)}}
            for call in message.tool_calls
        ]
    return values


def tools_for_template(text: str) -> list[Any] | None:
    """The definitions of the tools that a chat may call, from a row's `tools`."""
    if not text:
        return None
    tools = json.loads(text)
    return tools if isinstance(tools, list) and tools else None


def _parsed(call: ToolCall) -> Any:
    try:
        return json.loads(call.arguments)
    except ValueError:
        return call.arguments  # what stood in the file is no JSON: the template gets it as text


def find_template(folder: Path, special_tokens: Mapping[str, str]) -> ChatTemplate | None:
    """The model's own, or None where it has none. Raises: StudioError."""
    file = folder / "chat_template.jinja"
    data = read_if_there(file, LARGEST_TEMPLATE)
    if data is not None:
        try:
            return ChatTemplate(data.decode("utf-8"), special_tokens, str(file))
        except UnicodeDecodeError as error:
            raise StudioError(f"{file} is not UTF-8 text at byte {error.start:,}.") from error
    file = folder / "tokenizer_config.json"
    source = read_object(file).get("chat_template")
    if isinstance(source, list):  # several by name; "default" is the one for chats without tools
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default")
    return ChatTemplate(source, special_tokens, str(file)) if isinstance(source, str) else None


def plain_template(special_tokens: Mapping[str, str], name: str = "plain.jinja") -> ChatTemplate:
    """For models without one: `User: ...` and `Assistant: ...` in plain words. name: of the bundled file"""
    file = resources_folder() / "chat_templates" / name
    return ChatTemplate(file.read_text("utf-8"), special_tokens, file.name)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: what stands inside is written by the model."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [jinja2.nodes.ContextReference()])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context: jinja2.runtime.Context, caller: jinja2.runtime.Macro) -> str:
        text = str(caller())
        if context.get("_marked") is not True:
            return text
        return f"{context['_answer_begins']}{text}{context['_answer_ends']}"


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """What templates are written for: the settings and names that transformers gives them."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    del environment.globals["lipsum"]  # random text: a chat must be rendered twice the same (S6)
    environment.filters["tojson"] = _to_json
    environment.globals["namespace"] = _Namespace
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _TODAY.strftime
    return environment


class _Namespace(jinja2.utils.Namespace):
    """A template's variables, without names that could reach into Python."""

    def __init__(*args: Any, **values: Any) -> None:  # no names of our own: a template may choose any
        self, *rest = args
        for name in dict(*rest, **values):
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, *rest, **values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace can't hold {name!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _in_words(error: Exception) -> str:
    if isinstance(error, TimeLimitError):
        return f"it takes longer than {RENDER_SECONDS:g} seconds"
    if isinstance(error, MemoryError):
        return "it asks for more memory than it may"
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno}: {error.message}"[:500]
    return (str(error) or type(error).__name__).rstrip(".")[:500]
