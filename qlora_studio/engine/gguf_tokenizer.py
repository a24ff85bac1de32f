"""A tokenizer and its chat template as GGUF keeps them: tokens, merges, and a name for the rest.

A file holds no pattern that cuts text into words: it names one, and each program has its own of that name.
What has no name there can't be carried. Names: llama.cpp's `tokenizer.ggml.pre`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from gguf import GGUFWriter, TokenType

from qlora_studio.errors import StudioError
from qlora_studio.models.clean_config import clean_config
from qlora_studio.models.model_folder import open_folder
from qlora_studio.models.template import template_of, tokenizer_config

_FILE = "tokenizer.json"
_LONGEST = 128 * 1024**2  # bytes, as where the tokenizer is checked

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_LLAMA3_WORDS = _QWEN2_WORDS.replace(r"\p{N}|", r"\p{N}{1,3}|")
_NAMED = {_QWEN2_WORDS: "qwen2", _LLAMA3_WORDS: "llama-bpe"}


class _AddedToken(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _Model(msgspec.Struct):
    type: str = ""
    vocab: Any = None
    merges: list[str | list[str]] = []
    byte_fallback: bool | None = False
    ignore_merges: bool | None = False


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None


@dataclass(frozen=True)
class GgufTokenizer:
    """tokens: one for each row of the embedding. special: GGUF's word for it -> id, such as `eos`."""

    pre: str
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    special: dict[str, int]
    adds_bos: bool
    template: str

    @classmethod
    def of(cls, folder: Path) -> GgufTokenizer:
        """Raises: StudioError where the tokenizer can't be carried."""
        source = open_folder(folder)
        where = folder / _FILE
        if not source.has(_FILE):
            raise _not_carried(where, "the file is missing, and only this form is read")
        try:
            tokenizer = msgspec.json.decode(source.read(_FILE, _LONGEST), type=_Tokenizer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StudioError(f"{where} is not a tokenizer that can be read: {error}.") from error
        if tokenizer.model.type != "BPE" or tokenizer.model.byte_fallback:
            raise _not_carried(where, "it is no byte-level BPE")
        pre = _name_of_words(tokenizer)
        if pre is None:
            raise _not_carried(where, "GGUF has no name for the way it cuts text into words")
        template = template_of(folder)
        tokens, types = _tokens(tokenizer, clean_config(folder).values["vocab_size"])
        merges = [item if isinstance(item, str) else " ".join(item) for item in tokenizer.model.merges]
        special = dict(_special(folder, tokens))
        return cls(pre, tokens, types, merges, special, _adds_bos(tokenizer), template)

    def say(self, writer: GGUFWriter) -> None:
        """The tokenizer's keys."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for word, add in (
            ("bos", writer.add_bos_token_id),
            ("eos", writer.add_eos_token_id),
            ("unk", writer.add_unk_token_id),
            ("pad", writer.add_pad_token_id),
        ):
            if word in self.special:
                add(self.special[word])
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(False)
        writer.add_chat_template(self.template)


def _name_of_words(tokenizer: _Tokenizer) -> str | None:
    """llama.cpp's name for how this tokenizer cuts text before its merges; None: it has none that we know."""
    first = tokenizer.pre_tokenizer or {}
    parts = first.get("pretokenizers", []) if first.get("type") == "Sequence" else [first]
    *before, bytes_of_text = parts or [{}]
    if bytes_of_text.get("type") != "ByteLevel" or bytes_of_text.get("add_prefix_space"):
        return None
    name = _name_of_parts(before, bytes_of_text.get("use_regex", True))
    normalizer = (tokenizer.normalizer or {}).get("type")
    if normalizer is not None and not (normalizer == "NFC" and name == "qwen2"):
        return None
    if bool(tokenizer.model.ignore_merges) != (name == "llama-bpe"):
        return None
    return name


def _name_of_parts(before: list[dict[str, Any]], words_of_gpt2: bool) -> str | None:
    if not before:
        return "gpt-2" if words_of_gpt2 else None
    if len(before) > 1:
        return None
    part = before[0]
    if part.get("type") == "Digits" and part.get("individual_digits") and words_of_gpt2:
        return "smollm"
    isolated = part.get("type") == "Split" and part.get("behavior") == "Isolated" and not part.get("invert")
    if isolated and not words_of_gpt2:
        return _NAMED.get((part.get("pattern") or {}).get("Regex", ""))
    return None


def _tokens(tokenizer: _Tokenizer, vocab_size: int) -> tuple[list[str], list[TokenType]]:
    """Of every row of the embedding: those that no token has get a name that no text has."""
    tokens = [f"[PAD{row}]" for row in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    for text, row in tokenizer.model.vocab.items():
        tokens[row], types[row] = text, TokenType.NORMAL
    for token in tokenizer.added_tokens:
        tokens[token.id] = token.content
        types[token.id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    return tokens, types


def _special(folder: Path, tokens: list[str]) -> Iterator[tuple[str, int]]:
    """As the tokenizer names them, else as the model does."""
    said = tokenizer_config(open_folder(folder))
    values = clean_config(folder).values
    rows = {token: row for row, token in enumerate(tokens)}
    for word in ("bos", "eos", "unk", "pad"):
        named = said.get(f"{word}_token")
        text = named.get("content") if isinstance(named, dict) else named
        row = rows.get(text) if isinstance(text, str) else values.get(f"{word}_token_id")
        row = row[0] if isinstance(row, list) else row
        if row is not None:
            yield word, row


def _adds_bos(tokenizer: _Tokenizer) -> bool:
    """Whether text that is no chat begins with the token that begins all."""
    last = tokenizer.post_processor or {}
    parts = last.get("processors", []) if last.get("type") == "Sequence" else [last]
    return any(
        part.get("type") == "TemplateProcessing" and "SpecialToken" in (part.get("single") or [{}])[0]
        for part in parts
    )


def _not_carried(where: Path, reason: str) -> StudioError:
    return StudioError(
        f"{where} can't be carried into a GGUF file: {reason}.",
        hint="Export the merged model: llama.cpp's own converter may know the tokenizer.",
    )
