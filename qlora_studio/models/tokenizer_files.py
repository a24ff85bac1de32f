"""Whether a folder has a tokenizer, and whether its ids fit the model's embedding."""

from __future__ import annotations

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


def check_tokenizer(source: ModelFolder, vocab_size: int) -> None:
    """Raises: StudioError where there is none, or where it makes ids that the embedding doesn't have (S4)."""
    if not any(all(source.has(name) for name in names) for names in _KINDS):
        raise StudioError(
            f"{source.path} has no tokenizer: tokenizer.json is missing.",
            hint="Download the model again, all of its files.",
        )
    if source.has("tokenizer.json"):
        highest = _highest_id(source)
        if highest >= vocab_size:
            raise StudioError(
                f"{source.path / 'tokenizer.json'} has token id {highest:,}; the model's embedding has "
                f"{vocab_size:,} rows.",
                hint="The tokenizer is of another model, or tokens were added without growing the model.",
            )


def _highest_id(source: ModelFolder) -> int:
    where = source.path / "tokenizer.json"
    try:
        tokenizer = msgspec.json.decode(source.read("tokenizer.json", _LONGEST_TOKENIZER), type=_Tokenizer)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise StudioError(f"{where} is not a tokenizer that can be read: {error}.") from error
    vocab = tokenizer.model.vocab
    ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    return max([*ids, *(token.id for token in tokenizer.added_tokens)], default=-1)
