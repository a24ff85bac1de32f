"""Whether a folder has a tokenizer, and whether its ids fit the model's embedding."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Any

import msgspec

from qlora_studio.errors import StudioError
from qlora_studio.models.model_folder import ModelFolder

_LONGEST_TOKENIZER = 128 * 1024**2  # bytes; Gemma's 262,144 tokens take 33 MB
_KINDS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[Any] = msgspec.field(default_factory=dict)


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_AddedToken] = []


def check_tokenizer(source: ModelFolder, vocab_size: int, written: str) -> tuple[str, ...]:
    """Names of added tokens that are left out: the embedding has no row for them, and no chat needs them.

    written: all that names tokens which are needed, the template and tokenizer_config.json's own
    Raises: StudioError where there is no tokenizer, or it makes ids that the embedding doesn't have (S4).
    """
    if not any(all(source.has(name) for name in names) for names in _KINDS):
        raise StudioError(
            f"{source.path} has no tokenizer: tokenizer.json is missing.",
            hint="Download the model again, all of its files.",
        )
    if not source.has("tokenizer.json"):
        return ()
    tokenizer = _read(source)
    vocab = tokenizer.model.vocab
    left_out: list[str] = []
    needed: list[int] = []
    for token in tokenizer.added_tokens:
        if token.id >= vocab_size:
            if token.content in written:
                needed.append(token.id)
            else:
                left_out.append(token.content)
    ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    highest = max([*ids, *needed], default=-1)
    if highest >= vocab_size:
        raise StudioError(
            f"{source.path / 'tokenizer.json'} has token id {highest:,}; the model's embedding has "
            f"{vocab_size:,} rows.",
            hint="The tokenizer is of another model, or tokens were added without growing the model.",
        )
    return tuple(left_out)


def _read(source: ModelFolder) -> _Tokenizer:
    where = source.path / "tokenizer.json"
    try:
        data = source.read("tokenizer.json", _LONGEST_TOKENIZER).removeprefix(BOM_UTF8)
        return msgspec.json.decode(data, type=_Tokenizer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StudioError(f"{where} is not a tokenizer that can be read: {error}.") from error
