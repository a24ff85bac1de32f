"""A chat as the text the model sees, with the characters it learns to write."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.template import ChatTemplate, for_template, tools_for_template
from qlora_studio.errors import StudioError

Span = tuple[int, int]  # characters of a text, the second one not included
FindSpecial = Callable[[str], list[Span]]  # where names of special tokens stand in a text

_NONCE = secrets.token_hex(8)
_HIDDEN = re.compile(f"\U000f0004{_NONCE}\\.(\\d+)\U000f0005")


@dataclass(frozen=True)
class LearnedSpan:
    """The loss counts these characters by `weight`; 0 takes them out of an earlier span."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Rendered:
    """The exact text.

    learned: later ones win
    foreign: where the data holds names of special tokens; they are encoded as text (D9)
    target:  of an encoder-decoder what is learned, whole; the text is then the source
    """

    text: str
    learned: tuple[LearnedSpan, ...] = ()
    foreign: tuple[Span, ...] = ()
    target: Rendered | None = None


@dataclass(frozen=True)
class Turn:
    """The characters that one message adds, with its header and end."""

    start: int
    end: int
    role: str


def render_chat(row: Row, template: ChatTemplate, train_on: str, find_special: FindSpecial) -> Rendered:
    """`train_on`: answers | last_answer | everything; a message's own loss_weight wins.

    Raises: StudioError where the template fails, leaves an answer out, or doesn't show what is an answer.
    """
    talk = _Talk(row.messages, template, find_special, tools_for_template(row.tools))
    full = talk.render(len(row.messages))
    learned = [LearnedSpan(0, len(full), 1.0)] if train_on == "everything" else []
    wanted = _weights(row.messages, train_on)
    spans = _spans(talk, full, [k for k, weight in enumerate(wanted) if weight is not None])
    for k, (start, end) in spans.items():
        weight = wanted[k]
        assert weight is not None
        if weight:
            _refuse_gaps(talk.messages[k], full[start:end], template.origin)
        learned.append(LearnedSpan(start, end, weight))
    return talk.reveal(full, learned)


def render_prompt(
    messages: Sequence[Message], template: ChatTemplate, find_special: FindSpecial, tools: str = ""
) -> Rendered:
    """A chat that waits for an answer. Raises: StudioError where the template fails."""
    talk = _Talk(messages, template, find_special, tools_for_template(tools))
    return talk.reveal(talk.render(len(messages), add_generation_prompt=True), [])


def turns_of(row: Row, template: ChatTemplate, find_special: FindSpecial) -> tuple[Turn, ...]:
    """Which message the characters of the rendered chat belong to, as far as the template shows it."""
    messages = row.messages
    talk = _Talk(messages, template, find_special, tools_for_template(row.tools))
    full = talk.render(len(messages))
    ends = []
    for k in range(1, len(messages)):
        try:
            text = talk.render(k)
        except StudioError:  # some templates refuse a chat that ends early
            text = ""
        ends.append(len(text) if full.startswith(text) else 0)
    ends.append(len(full))
    learned = [LearnedSpan(0, end, 1.0) for end in ends]
    turns, start = [], 0
    for message, span in zip(messages, talk.reveal(full, learned).learned, strict=True):
        if span.end > start:
            turns.append(Turn(start, span.end, message.role))
            start = span.end
    return tuple(turns)


def _weights(messages: Sequence[Message], train_on: str) -> list[float | None]:
    """What each message counts in the loss; None: its characters are what the rest of the chat is.

    What an assistant says before the first question is no answer.
    """
    asked = next((k for k, message in enumerate(messages) if message.role == "user"), 0)
    answers = [k for k, message in enumerate(messages) if k >= asked and message.role == "assistant"]
    taught = {"answers": answers, "last_answer": answers[-1:]}.get(train_on, [])
    weights: list[float | None] = []
    for k, message in enumerate(messages):
        weight = message.loss_weight if message.loss_weight is not None else 1.0 if k in taught else None
        if weight == 0 and train_on != "everything":
            weight = None
        if message.role == "assistant" and message.says_nothing:
            weight = None if train_on != "everything" else 0.0  # an empty answer teaches to say nothing (D8)
        weights.append(weight)
    return weights


def _spans(talk: _Talk, full: str, wanted: list[int]) -> dict[int, Span]:
    """The characters of the messages `wanted`: what a turn adds to the chat before it, or what is marked."""
    found = {}
    for k in wanted:
        span = _added_by(talk, full, k)
        if span is None:
            return _marked(talk, full, wanted, broken=k)
        found[k] = span
    return found


def _added_by(talk: _Talk, full: str, k: int) -> Span | None:
    """None where the text of the chat so far isn't the beginning of the text of the longer chat."""
    answer = talk.messages[k]["role"] == "assistant"
    last = k == len(talk.messages) - 1
    try:
        after = full if last else talk.render(k + 1)
        before = talk.render(k, add_generation_prompt=answer) if k or answer else ""
    except StudioError:  # some templates refuse a chat that ends early
        return None
    if not (after.startswith(before) and full.startswith(after)):
        return None
    return len(before), _end_of_turn(talk, full, (len(before), len(after))) if answer else len(after)


def _refuse_gaps(message: dict[str, Any], written: str, origin: str) -> None:
    """An answer is learned whole or not at all: without its calls it would teach to say nothing."""
    if message["content"].strip() not in written:
        raise StudioError(f"The chat template in {origin} leaves out part of an answer.")
    for call in message.get("tool_calls", ()):
        name = call["function"]["name"]
        spellings = "|".join(re.escape(spelling) for spelling in (name, json.dumps(name)[1:-1]))
        if not re.search(rf"(?<!\w)(?:{spellings})(?!\w)", written):
            raise StudioError(
                f"The chat template in {origin} leaves out the call of a tool.",
                hint="Choose a model that was made to call tools.",
            )


def _end_of_turn(talk: _Talk, full: str, span: Span) -> int:
    """Without the blank after the token that ends the answer: generation stops there."""
    start, end = span
    special = talk.find_special(full[start:end])
    if special and not full[start + special[-1][1] : end].strip():
        return start + special[-1][1]
    return end


def _marked(talk: _Talk, full: str, wanted: list[int], broken: int) -> dict[int, Span]:
    """Spans from the template's `{% generation %}` marks."""
    answers = [k for k, message in enumerate(talk.messages) if message["role"] == "assistant"]
    if not talk.template.marks_answers:
        raise StudioError(
            f"The chat template in {talk.template.origin} doesn't show where an answer begins and ends: "
            f"the text up to turn {broken + 1} reads otherwise once the chat goes on, and the template "
            "has no {% generation %} marks.",
            hint="Learn from the last answer only, or use a template that keeps earlier turns as they are.",
        )
    begins, ends = talk.template.answer_begins, talk.template.answer_ends
    text, spans = "", []
    for i, part in enumerate(talk.render(len(talk.messages), marked=True).split(begins)):
        answer, end, rest = part.partition(ends)
        if i and end:
            spans.append((len(text), len(text) + len(answer)))
        text += answer + rest
    if text != full or len(spans) != len(answers) or not set(wanted) <= set(answers):
        raise StudioError(
            f"The chat template in {talk.template.origin} marks {len(spans)} answers of a chat that has "
            f"{len(answers)}.",
            hint="Learn from everything, or use another template.",
        )
    return {k: span for k, span in zip(answers, spans, strict=True) if k in wanted}


class _Talk:
    """A chat with the names of special tokens in its messages hidden, so that each one that the template
    writes itself can be told from one that came with the data."""

    def __init__(
        self,
        messages: Sequence[Message],
        template: ChatTemplate,
        find_special: FindSpecial,
        tools: list[Any] | None = None,
    ) -> None:
        self.template = template
        self.find_special = find_special
        self._names: list[str] = []
        self.messages = [self._hide(for_template(message)) for message in messages]
        self._tools = self._hide(tools)

    def render(self, count: int, *, add_generation_prompt: bool = False, marked: bool = False) -> str:
        """The first `count` messages."""
        return self.template.render(
            self.messages[:count],
            tools=self._tools,
            add_generation_prompt=add_generation_prompt,
            marked=marked,
        )

    def reveal(self, text: str, learned: Sequence[LearnedSpan]) -> Rendered:
        """With the hidden names in their places again."""
        if not self._names:
            return Rendered(text, tuple(learned))
        pieces: list[str] = []
        foreign: list[Span] = []
        moved = [(0, 0)]  # (in the hidden text, in the revealed one) after each name
        at = length = 0
        for match in _HIDDEN.finditer(text):
            name = self._names[int(match.group(1))]
            pieces += [text[at : match.start()], name]
            length += match.start() - at + len(name)
            foreign.append((length - len(name), length))
            moved.append((match.end(), length))
            at = match.end()
        pieces.append(text[at:])

        def place(position: int) -> int:
            hidden, revealed = next(pair for pair in reversed(moved) if pair[0] <= position)
            return revealed + position - hidden

        spans = [LearnedSpan(place(span.start), place(span.end), span.weight) for span in learned]
        return Rendered("".join(pieces), tuple(spans), tuple(foreign))

    def _hide(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, dict):
            return {key: self._hide(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._hide(item) for item in value]
        return value

    def _hidden(self, text: str) -> str:
        pieces: list[str] = []
        at = 0
        for start, end in self.find_special(text):
            pieces += [text[at:start], f"\U000f0004{_NONCE}.{len(self._names)}\U000f0005"]
            self._names.append(text[start:end])
            at = end
        return "".join([*pieces, text[at:]]) if pieces else text
