"""A Modelfile for Ollama: a model's chat template in Go's words, if both make the same text of all chats.

The parts are found by rendering a few chats with the model's own template; that the whole is right is found
by rendering many with both and comparing letter by letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qlora_studio.data import go_template
from qlora_studio.data.go_template import literal
from qlora_studio.data.template import ChatTemplate
from qlora_studio.data.tokenizer import ModelTokenizer
from qlora_studio.errors import StudioError

Chat = list[dict[str, str]]

_SYSTEM, _USER, _REPLY, _NEXT = "Qsystemq", "Quserq", "Qreplyq", "Qnextq"  # no template knows these words
_TEXTS = (
    "What is 12 times 12?",
    "First line\nSecond line\n\n- one\n- two",
    "Grüße aus Köln, 你好, नमस्ते 🙂",
    "```go\nif x { fmt.Println(`{{ .Content }}`) }\n```",
    'He said "yes" and """no""" \\n',
)
_REPLIES = (
    "144",
    "<think>\n12 times 12 is 144.\n</think>\n\nIt is 144.",
    "A list:\n\n1. one\n2. two",
)


@dataclass(frozen=True)
class OllamaTemplate:
    """text: in Go's words. chats: of how many the text was the same. notes: what it can't do."""

    text: str
    chats: int
    notes: tuple[str, ...]


def modelfile(template: ChatTemplate, tokenizer: ModelTokenizer, stop_ids: Sequence[int]) -> tuple[str, str]:
    """All of it but the line that names the file; and what a person should know of it.

    Raises: StudioError where the template can't be said in Go's words, with the reason.
    """
    found = ollama_template(template, _put_before(tokenizer))
    about = f"The template makes the same text as the model's own of {found.chats} chats."
    notes = " ".join((about, *found.notes))
    lines = [f"# {line}" for line in (about, *found.notes)]
    lines.append(f'TEMPLATE """{found.text}"""')
    names = dict.fromkeys(tokenizer.name_of(id) for id in stop_ids)
    lines += [f'PARAMETER stop "{name}"' for name in names if name and '"' not in name and "\n" not in name]
    return "\n".join(lines) + "\n", notes


def ollama_template(template: ChatTemplate, put_before: str) -> OllamaTemplate:
    """put_before: what the program itself puts before every text, as the token that begins all.

    Raises: StudioError with the chat that comes out otherwise.
    """
    own = _Own(template, put_before)
    text, knows_system = _text(own)
    chats = list(_chats(knows_system))
    for chat in chats:
        wanted, got = own.render(chat), go_template.render(text, chat)
        if wanted != got:
            raise _not_sayable(f"of a chat of {len(chat)} messages it makes {_around(wanted, got)}")
    return OllamaTemplate(text, len(chats), tuple(_notes(own, text, knows_system)))


class _Own:
    """The model's template, less what the program itself puts before."""

    def __init__(self, template: ChatTemplate, put_before: str) -> None:
        self._template = template
        self._put_before = put_before

    def render(self, chat: Chat, *, asks: bool = True) -> str:
        """asks: an answer is to follow. Raises: StudioError with the template's own reason."""
        text = self._template.render(chat, add_generation_prompt=asks)
        if not text.startswith(self._put_before):
            raise _not_sayable(
                f"it doesn't begin with {self._put_before}, which Ollama puts before every text"
            )
        return text.removeprefix(self._put_before)


def _text(own: _Own) -> tuple[str, bool]:
    """In Go's words, and whether it knows of a system text. Raises: StudioError."""
    asked, said = own.render(_chat(_USER)), own.render(_chat(_USER), asks=False)
    answered = own.render(_chat(_USER, _REPLY), asks=False)
    whole = own.render(_chat(_USER, _REPLY, _NEXT))
    first, between, after, tail = _parts(whole, _USER, _REPLY, _NEXT)
    ends = said.partition(_USER)[2]
    reply_ends = answered.partition(_REPLY)[2]
    if not (asked.startswith(said) and between.startswith(ends) and after.startswith(reply_ends)):
        raise _not_sayable("a message is written in another way where it is the last one")
    user, reply = after.removeprefix(reply_ends), between.removeprefix(ends)
    answer = asked.removeprefix(said)
    if not first.endswith(user) or tail != ends + answer:
        raise _not_sayable("the first or the last message is written in another way than the others")
    turns = (
        f'{literal(user)}{{{{ .Content }}}}{literal(ends)}{{{{ else if eq .Role "assistant" }}}}'
        f"{literal(reply)}{{{{ .Content }}}}{literal(reply_ends)}{{{{ end }}}}{{{{ end }}}}{literal(answer)}"
    )
    head = first.removesuffix(user)
    try:
        whole = own.render([_message("system", _SYSTEM), *_chat(_USER, _REPLY, _NEXT)])
    except StudioError:  # as Gemma's: "System role not supported"
        return f'{literal(head)}{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{turns}', False
    if _SYSTEM not in whole:
        return f'{literal(head)}{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{turns}', False
    before, follows, *_ = _parts(whole, _SYSTEM, _USER, _REPLY, _NEXT)
    if follows.endswith(user):
        return _with_a_block(head, before, follows.removesuffix(user), turns), True
    return _within_the_first(first, before, follows, user, turns), True


def _with_a_block(head: str, before: str, ends: str, turns: str) -> str:
    """The system text is a message of its own."""
    default = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{literal(head)}{{{{ end }}}}' if head else ""
    return (
        f'{default}{{{{ range .Messages }}}}{{{{ if eq .Role "system" }}}}{literal(before)}{{{{ .Content }}}}'
        f'{literal(ends)}{{{{ else if eq .Role "user" }}}}{turns}'
    )


def _within_the_first(first: str, before: str, follows: str, user: str, turns: str) -> str:
    """The system text stands in the first message."""
    said = f"{literal(before)}{{{{ (index .Messages 0).Content }}}}{literal(follows)}"
    later = f"{{{{ if gt $i 1 }}}}{literal(user)}{{{{ end }}}}{turns.removeprefix(literal(user))}"
    return (
        f'{{{{ if eq (index .Messages 0).Role "system" }}}}{said}{{{{ else }}}}{literal(first)}{{{{ end }}}}'
        f'{{{{ range $i, $_ := .Messages }}}}{{{{ if eq .Role "user" }}}}{later}'
    )


def _parts(text: str, *words: str) -> list[str]:
    """What stands around the words, each of which must be there once and in this order."""
    parts = []
    for word in words:
        part, found, text = text.partition(word)
        if not found or word in text:
            raise _not_sayable("it doesn't write each message once and in order")
        parts.append(part)
    return [*parts, text]


def _chats(knows_system: bool) -> Iterable[Chat]:
    """Of one to three questions, with and without a system text."""
    systems: tuple[str | None, ...] = (None, "You are terse.", _TEXTS[1]) if knows_system else (None,)
    for system in systems:
        before = [] if system is None else [_message("system", system)]
        for place, text in enumerate(_TEXTS):
            following = _TEXTS[(place + 1) % len(_TEXTS)]
            yield [*before, *_chat(text)]
            for reply in _REPLIES:
                yield [*before, *_chat(text, reply, following)]
                yield [*before, *_chat(text, reply, following, _REPLIES[0], text)]


def _notes(own: _Own, text: str, knows_system: bool) -> Iterable[str]:
    if not knows_system:
        yield "The model's template knows no system text; one that Ollama gets is left out."
    padded = _chat("  padded  ")
    if own.render(padded) != go_template.render(text, padded):
        yield (
            "The model's template takes blanks from the ends of a message, Ollama can't; "
            "send messages without them."
        )
    yield "Calls of tools are left out."


def _put_before(tokenizer: ModelTokenizer) -> str:
    ids = tokenizer.encode_texts(["a"])[0].ids.tolist()
    return tokenizer.name_of(ids[0]) if len(ids) > 1 and tokenizer.is_special(ids[0]) else ""


def _chat(*texts: str) -> Chat:
    return [_message(("user", "assistant")[place % 2], text) for place, text in enumerate(texts)]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _around(wanted: str, got: str) -> str:
    """Where the two part, in words."""
    shorter = min(len(wanted), len(got))
    same = next((i for i in range(shorter) if wanted[i] != got[i]), shorter)
    begin = max(0, same - 20)
    return f"{wanted[begin : same + 30]!r}, Ollama's would make {got[begin : same + 30]!r}"


def _not_sayable(reason: str) -> StudioError:
    return StudioError(
        f"No Modelfile was written: the chat template can't be said in Ollama's words: {reason}.",
        hint="The GGUF file itself carries the model's own template, which llama.cpp renders as it is.",
    )
