"""Where the tokens of a byte-level tokenizer stand in a text, known by the bytes that each token is.

The library takes a fifth longer where it keeps each token's place itself (`encode_batch` beside
`encode_batch_fast`), and asking it for places is slower than adding up lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unicodedata import is_normalized

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, pre_tokenizers

from qlora_studio.data.encoded import EncodedByBytes, array_of

_LETTERS = frozenset(pre_tokenizers.ByteLevel.alphabet())  # one for each byte; GPT-2's
_LARGEST_ID = 10_000_000  # of real vocabularies 256,000; a foreign file may say any
_ONLY_SPLIT = ("Split", "Digits", "Punctuation")  # pre-tokenizers; whether they drop text is checked apart


@dataclass(frozen=True, eq=False)
class TokenBytes:
    """How many bytes of UTF-8 text each token stands for.

    lengths:  int32 [vocabulary], by id
    composes: the text is brought to NFC before it is encoded
    """

    lengths: NDArray[np.int32]
    composes: bool

    def can_place(self, text: str) -> bool:
        """Not where characters become others before they are encoded."""
        return not self.composes or text.isascii() or is_normalized("NFC", text)

    def place(self, text: str, ids: list[int]) -> EncodedByBytes | None:
        """None where the tokens are not, one behind the other, all bytes of the text."""
        tokens = array_of(ids)
        lengths = self.lengths.take(tokens)
        ends = lengths.cumsum(dtype=np.int32)
        total = int(ends[-1]) if len(ends) else 0
        if text.isascii():
            return EncodedByBytes(tokens, ends - lengths, ends) if total == len(text) else None
        written = np.frombuffer(text.encode(), np.uint8)
        if total != len(written):
            return None
        character_of = ((written & 0xC0) != 0x80).cumsum(dtype=np.int32)  # from 1; 0x80: not a first byte
        return EncodedByBytes(tokens, character_of[ends - lengths] - 1, character_of[ends - 1])


def token_bytes(definition: Mapping[str, Any], added: Mapping[int, AddedToken]) -> TokenBytes | None:
    """Of tokenizer.json; None where its tokens aren't the text's bytes, or where that isn't certain."""
    model, normalizer = definition.get("model"), definition.get("normalizer")
    composes = normalizer is not None
    if (
        not isinstance(model, dict)
        or not _is_byte_level(model)
        or (composes and _kind(normalizer) != "NFC")
        or not _keeps_bytes(definition.get("pre_tokenizer"))
        or any(map(_is_ambiguous, added.values()))
    ):
        return None
    vocabulary: dict[str, int] = model["vocab"]
    length_of = {id: len(token) for token, id in vocabulary.items()}  # a letter is a byte
    is_unique = len(length_of) == len(vocabulary)
    length_of |= {id: len(token.content.encode()) for id, token in added.items()}
    if not is_unique or max(length_of) > _LARGEST_ID:
        return None
    lengths = np.zeros(max(length_of) + 1, np.int32)
    lengths[list(length_of)] = list(length_of.values())
    return TokenBytes(lengths, composes)


def _is_byte_level(model: dict[str, Any]) -> bool:
    """A byte without a token may be left out (the sum shows it), but mustn't become another one."""
    parts = any(map(model.get, ("continuing_subword_prefix", "end_of_word_suffix")))
    stand_in = model.get("unk_token") is not None or model.get("byte_fallback")
    return _kind(model) == "BPE" and not parts and (not stand_in or model["vocab"].keys() >= _LETTERS)


def _keeps_bytes(pre_tokenizer: Any) -> bool:
    """Bytes become letters once, and nothing is put in or left out."""
    steps = list(_steps(pre_tokenizer))
    byte_level = [step for step in steps if _kind(step) == "ByteLevel"]
    return (
        len(byte_level) == 1
        and byte_level[0].get("add_prefix_space") is False
        and all(step in byte_level or _kind(step) in _ONLY_SPLIT for step in steps)
        and not any(step.get("behavior") == "Removed" for step in steps)
    )


def _steps(pre_tokenizer: Any) -> Iterator[dict[str, Any]]:
    if _kind(pre_tokenizer) == "Sequence":
        for step in pre_tokenizer["pretokenizers"]:
            yield from _steps(step)
    elif isinstance(pre_tokenizer, dict):
        yield pre_tokenizer


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _is_ambiguous(token: AddedToken) -> bool:
    """It takes blanks of the text with it, or the same token may be other bytes made of their letters."""
    made_of_letters = not token.content.isascii() and _LETTERS.issuperset(token.content)
    return token.lstrip or token.rstrip or made_of_letters
