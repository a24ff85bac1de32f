"""A foreign tokenizer and chat template meet text for the first time: in a process of their own (S6, S7)."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import msgspec

from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.masking import render_chat
from qlora_studio.data.row_encoder import EncodedRow, RowEncoder
from qlora_studio.data.template import ChatTemplate, find_template, for_template, plain_template
from qlora_studio.data.tokenizer import ModelTokenizer, load_tokenizer
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import Problem
from qlora_studio.reader.limits import limit_memory

LOADING_SECONDS = 15.0  # of a tokenizer; the largest take 2. All limits together stay under D1's 30
TRIAL_SECONDS = 4.0  # of the tokenizer on the sample, then of the template on the talks
TOKENIZER_BYTES = 2 * 1024**3  # one with 262,144 entries takes 0.5
TEMPLATE_BYTES = 1024**3

_SAMPLE = "Plain words, 1,234 numbers,\n\ttabs, ünïcödé, 漢字 and 😀."
_RUNS = tuple(
    unit * 60 for unit in ("a", "7", " ", "a ", "a7", "é", ".", "\n")
)  # where bad patterns never end
_ONE = (Message("user", "What is a quartz?"), Message("assistant", "A mineral, number 17."))
_TWO = (*_ONE, Message("user", "And a vixen?"), Message("assistant", "A fox, number 23."))
_SYSTEM = Message("system", "Answer in few words.")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `stop_ids`: the token that ends an answer in this template."""

    problem: Problem | None = None
    notes: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()


def main() -> int:
    """`python -m qlora_studio.reader.trial_child FOLDER`; says each stage, then the verdict."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.umask(0o077)
    try:
        verdict = _try(Path(sys.argv[1]), out)
    except StudioError as error:
        verdict = Verdict(problem=Problem(error.message, error.hint))
    print(msgspec.json.encode(verdict).decode(), file=out, flush=True)
    return 0


def _try(folder: Path, out: TextIO) -> Verdict:
    print("tokenizer", file=out, flush=True)
    limit_memory(TOKENIZER_BYTES)
    faulthandler.dump_traceback_later(LOADING_SECONDS, exit=True)  # also where native code never returns
    tokenizer = load_tokenizer(folder)
    faulthandler.dump_traceback_later(TRIAL_SECONDS, exit=True)
    notes = list(_losses(tokenizer, folder))
    print("template", file=out, flush=True)
    faulthandler.dump_traceback_later(TRIAL_SECONDS, exit=True)
    limit_memory(TEMPLATE_BYTES)
    template = find_template(folder, tokenizer.special.names)
    template = template or plain_template(tokenizer.special.names)
    notes += _failures(template, tokenizer)
    stops = _end_of_answer(template, tokenizer)
    if not set(stops) <= set(tokenizer.special.stop_ids):
        notes.append(
            f"Its template ends an answer with {tokenizer.name_of(stops[0])!r}; a reply stops there."
        )
    elif not stops:
        notes.append("Its template ends an answer with no special token; replies may not end by themselves.")
    faulthandler.cancel_dump_traceback_later()
    return Verdict(notes=tuple(notes), stop_ids=stops)


def _losses(tokenizer: ModelTokenizer, folder: Path) -> Iterator[str]:
    encoded, *_ = tokenizer.encode_texts([_SAMPLE, *_RUNS])
    decoded = tokenizer.decode(encoded.ids.tolist()).casefold()
    if not decoded.strip():
        raise StudioError(f"The tokenizer in {folder} makes nothing of a plain text.")
    lost = sorted({character for character in _SAMPLE.casefold() if not character.isspace()} - set(decoded))
    if lost:
        yield f"Its tokenizer has no way to write {' '.join(lost[:10])}."
    if "\n" not in decoded:
        yield "Its tokenizer makes a space of a line's end: what is learned and written is one line."


def _failures(template: ChatTemplate, tokenizer: ModelTokenizer) -> Iterator[str]:
    """Raises: StudioError where not even one question and its answer come through."""
    _check_rendering(_ONE, template)
    for talk, without in (((_SYSTEM, *_ONE), "a system message"), (_TWO, "a chat of more than two turns")):
        try:
            _check_rendering(talk, template)
        except StudioError as error:
            yield f"Its template takes no chat with {without}: {error.message}"
    try:
        render_chat(Row(row=0, line=1, messages=_TWO), template, "answers", tokenizer.special_in)
    except StudioError as error:
        yield f"Of longer chats only the last answer can be learned: {error.message}"


def _check_rendering(talk: tuple[Message, ...], template: ChatTemplate) -> None:
    messages = [for_template(message) for message in talk]
    text = template.render(messages)
    if text != template.render(messages):
        raise StudioError(f"The chat template in {template.origin} renders one chat in two ways.")
    for message in talk:
        if message.role == "assistant" and message.content not in text:
            raise StudioError(f"The chat template in {template.origin} leaves answers out.")


def _end_of_answer(template: ChatTemplate, tokenizer: ModelTokenizer) -> tuple[int, ...]:
    (item,) = RowEncoder(tokenizer, template, train_on="answers").encode([Row(row=0, line=1, messages=_ONE)])
    if not isinstance(item, EncodedRow):
        raise StudioError(item.reason, item.hint)
    learned = item.ids[item.weights > 0].tolist()
    return (learned[-1],) if learned and tokenizer.is_special(learned[-1]) else ()


if __name__ == "__main__":
    sys.exit(main())
