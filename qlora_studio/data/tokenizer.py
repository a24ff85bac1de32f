"""A model's tokenizer: text to ids without torch, where the names of special tokens inside data stay text."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken, Tokenizer

from qlora_studio.data.byte_level import TokenBytes, token_bytes
from qlora_studio.data.encoded import (
    Encoded,
    EncodedByBytes,
    EncodedOnly,
    EncodedWithOffsets,
    Span,
)
from qlora_studio.data.model_files import object_from, read_if_there, read_object
from qlora_studio.data.slow_tokenizer import definition_from_parts
from qlora_studio.errors import StudioError

_LARGEST_TOKENIZER = 100_000_000  # bytes; those of 256,000 entries have 35 MB
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Which tokens mean something else than their text.

    names:    "eos_token" -> "<|im_end|>", as a chat template asks for them
    stop_ids: any of them ends an answer
    """

    names: dict[str, str]
    eos_id: int
    pad_id: int
    stop_ids: tuple[int, ...]


def load_tokenizer(folder: Path) -> ModelTokenizer:
    """Raises: StudioError naming the file and what is wrong with it."""
    file = folder / "tokenizer.json"
    data = read_if_there(file, _LARGEST_TOKENIZER)
    if data is None:
        data = definition_from_parts(folder)
    definition = object_from(data, file)
    definition["truncation"] = definition["padding"] = None
    places = _places(folder)
    _leave_out_beyond(definition, places)
    _keep_spaces_in_offsets(definition.get("post_processor"))
    _leave_nothing_to_chance(definition.get("model"))
    try:
        tokenizer = Tokenizer.from_buffer(msgspec.json.encode(definition))
    except Exception as error:  # the library raises nothing narrower
        raise StudioError(f"{file} is no tokenizer that can be used: {error}") from error
    config = read_object(folder / "special_tokens_map.json") | read_object(folder / "tokenizer_config.json")
    _add_missing(tokenizer, config, folder, places)
    special = _special_tokens(tokenizer, config, folder)
    digest = hashlib.sha256(data)
    digest.update(json.dumps([special.names, special.stop_ids], sort_keys=True).encode())
    placing = token_bytes(definition, tokenizer.get_added_tokens_decoder())
    return ModelTokenizer(tokenizer, special, digest.hexdigest(), placing)


class ModelTokenizer:
    """Encodes rendered chats and plain texts, many at once, on all cores."""

    def __init__(
        self, tokenizer: Tokenizer, special: SpecialTokens, sha256: str, placing: TokenBytes | None
    ) -> None:
        """`placing`: None where only the library knows where a token stands."""
        self._tokenizer = tokenizer
        self._placing = placing
        self.special = special
        self.sha256 = sha256
        added = tokenizer.get_added_tokens_decoder()
        self._special_of = {token.content: (id, token) for id, token in added.items() if token.special}
        self._special_ids = frozenset(id for id, token in added.items() if token.special)
        longest_first = sorted(self._special_of, key=len, reverse=True)
        self._special_names = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def special_in(self, text: str) -> list[Span]:
        """Where names of special tokens stand in `text`."""
        return [match.span() for match in self._special_names.finditer(text)]

    def is_special(self, id: int) -> bool:
        """Whether `id` means something else than its text."""
        return id in self._special_ids

    def id_of(self, token: str) -> int | None:
        """The id of a token by its name."""
        id: int | None = self._tokenizer.token_to_id(token)
        return id

    def name_of(self, id: int) -> str:
        """The token's own name."""
        return self._tokenizer.id_to_token(id) or ""

    def encode_rendered(
        self, texts: Sequence[str], foreign: Sequence[Sequence[Span]] | None = None
    ) -> list[Encoded]:
        """Rendered chats to tokens. The name of a special token is that token, but for those at `foreign[i]`:
        they came with the data and are encoded as the text that they are (D9).
        """
        guarded = [i for i, spans in enumerate(foreign or ()) if spans]
        if not guarded:
            return self._encode_plain(texts)
        encoded: list[Encoded | None] = [None] * len(texts)
        plain = sorted(set(range(len(texts))).difference(guarded))
        for i, encoding in zip(plain, self._encode_plain([texts[i] for i in plain]), strict=True):
            encoded[i] = encoding
        assert foreign is not None
        for i in guarded:
            encoded[i] = self._encode_guarded(texts[i], foreign[i])
        return [item for item in encoded if item is not None]

    def encode_texts(self, texts: Sequence[str]) -> list[Encoded]:
        """Texts that are all foreign to tokens, with what the tokenizer puts around a text (often BOS)."""
        if not texts:
            return []  # without a second tokenizer being built
        tokenizer = self._as_text.tokenizer
        encodings = tokenizer.encode_batch_fast(list(texts))
        return [
            EncodedOnly(encoding.ids, text, tokenizer)
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _encode_plain(self, texts: Sequence[str]) -> list[Encoded]:
        encoded: dict[int, Encoded] = dict(self._placed_by_bytes(texts))
        others = [i for i in range(len(texts)) if i not in encoded]
        encodings = self._tokenizer.encode_batch([texts[i] for i in others], add_special_tokens=False)
        encoded |= zip(others, map(EncodedWithOffsets, encodings), strict=True)
        return [encoded[i] for i in range(len(texts))]

    def _placed_by_bytes(self, texts: Sequence[str]) -> Iterator[tuple[int, EncodedByBytes]]:
        """Those that can be, and which of the texts they are."""
        placing = self._placing
        if placing is None:
            return
        suited = [i for i, text in enumerate(texts) if placing.can_place(text)]
        encodings = self._tokenizer.encode_batch_fast([texts[i] for i in suited], add_special_tokens=False)
        for i, encoding in zip(suited, encodings, strict=True):
            if (encoded := placing.place(texts[i], encoding.ids)) is not None:
                yield i, encoded

    def _encode_guarded(self, text: str, foreign: Sequence[Span]) -> EncodedWithOffsets:
        """Special tokens of the template go under other names into a tokenizer that knows no special tokens.

        So everything else is treated exactly as always: the text is split at the template's tokens only.
        """
        view = self._as_text
        starts = {start for start, _ in foreign}
        pieces: list[str] = []
        places = [(0, 0)]  # (in text, in the renamed text) where a piece begins
        at = length = 0
        for match in self._special_names.finditer(text):
            if match.start() in starts:
                continue
            alias = view.alias_of[match.group()]
            for piece, end in ((text[at : match.start()], match.start()), (alias, match.end())):
                pieces.append(piece)
                length += len(piece)
                places.append((end, length))
            at = match.end()
        pieces.append(text[at:])
        encoding = view.tokenizer.encode("".join(pieces), add_special_tokens=False)
        return EncodedWithOffsets(encoding, ids_of=view.id_of_alias, places=places)

    @cached_property
    def _as_text(self) -> _TextView:
        nonce = secrets.token_hex(8)  # no data can hold an alias by design; none influences any id
        alias_of = {name: f"\U000f0000{nonce}.{id}\U000f0001" for name, (id, _) in self._special_of.items()}
        tokenizer = Tokenizer.from_str(_with_no_special_pieces(self._tokenizer.to_str(), alias_of))
        tokenizer.encode_special_tokens = True
        tokenizer.add_tokens(
            [
                AddedToken(
                    alias_of[name],
                    normalized=False,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    single_word=token.single_word,
                )
                for name, (_, token) in self._special_of.items()
            ]
        )
        aliases = {name: tokenizer.token_to_id(alias) for name, alias in alias_of.items()}
        ids = {alias: self._special_of[name][0] for name, alias in aliases.items() if alias is not None}
        return _TextView(tokenizer, alias_of, ids)


@dataclass(frozen=True)
class _TextView:
    """The same tokenizer, but special tokens are text, and each can still be written by an alias."""

    tokenizer: Tokenizer
    alias_of: dict[str, str]
    id_of_alias: dict[int, int]


def _with_no_special_pieces(definition: str, alias_of: Mapping[str, str]) -> str:
    """A Unigram model, as T5's, has its special tokens among the pieces that any text is cut into: there they
    get their aliases for names, which stand in no text.
    """
    whole = json.loads(definition)
    model = whole["model"]
    if model.get("type") != "Unigram":
        return definition
    model["vocab"] = [[alias_of.get(piece, piece), score] for piece, score in model["vocab"]]
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] not in alias_of]
    return json.dumps(whole)


def _keep_spaces_in_offsets(processor: Any) -> None:
    """A token's characters include its leading space: a run of spaces at a border has a place then too."""
    if isinstance(processor, dict):
        if "trim_offsets" in processor:
            processor["trim_offsets"] = False
        for part in processor.get("processors") or ():
            _keep_spaces_in_offsets(part)


def _leave_nothing_to_chance(model: Any) -> None:
    """The same text has the same tokens each time: in the preview, when counted, and in training (D4)."""
    if isinstance(model, dict) and model.get("dropout"):
        model["dropout"] = None


def _places(folder: Path) -> int:
    """Rows of the model's embedding; no limit where config.json doesn't say."""
    said = read_object(folder / "config.json").get("vocab_size")
    return said if type(said) is int else sys.maxsize


def _leave_out_beyond(definition: dict[str, Any], places: int) -> None:
    """Added tokens without a row in the embedding: their names are text."""
    listed = definition.get("added_tokens")
    if isinstance(listed, list):
        definition["added_tokens"] = [token for token in listed if _id_in(token) < places]


def _id_in(token: Any) -> int:
    """-1 where it is none: the library says what is wrong with it."""
    id = token.get("id") if isinstance(token, dict) else None
    return id if type(id) is int else -1


def _add_missing(tokenizer: Tokenizer, config: dict[str, Any], folder: Path, places: int) -> None:
    """Tokens that older folders list beside the tokenizer, where their ids are the next free ones."""
    listed = config.get("added_tokens_decoder")
    for number, entry in sorted(listed.items(), key=_by_id) if isinstance(listed, dict) else ():
        if _by_id((number, entry)) >= places:
            continue
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str) or not content or tokenizer.token_to_id(content) is not None:
            continue
        flags = {name: bool(entry.get(name)) for name in ("lstrip", "rstrip", "single_word", "normalized")}
        token = AddedToken(content, special=bool(entry.get("special")), **flags)
        added = tokenizer.add_special_tokens([token]) if token.special else tokenizer.add_tokens([token])
        if added and tokenizer.token_to_id(content) != int(number):
            raise StudioError(
                f"{folder / 'tokenizer_config.json'} gives token {content!r} the id {number}, "
                f"but tokenizer.json has {tokenizer.token_to_id(content)} entries before it.",
                hint="The two files don't belong together: get the model again.",
            )


def _by_id(item: tuple[str, Any]) -> int:
    return int(item[0]) if item[0].isdecimal() else -1


def _special_tokens(tokenizer: Tokenizer, config: dict[str, Any], folder: Path) -> SpecialTokens:
    names = {key: name for key in _NAMED if (name := _content(config.get(key)))}
    ids = {key: id for key, name in names.items() if (id := tokenizer.token_to_id(name)) is not None}
    names = {key: name for key, name in names.items() if key in ids}
    generation = read_object(folder / "generation_config.json")
    stops = [
        *_ids(generation.get("eos_token_id")),
        *_ids(read_object(folder / "config.json").get("eos_token_id")),
    ]
    known = [id for id in stops if tokenizer.id_to_token(id) is not None]
    if "eos_token" not in ids:
        if not known:
            raise StudioError(
                f"{folder} names no token that ends a text: tokenizer_config.json has no eos_token, "
                "generation_config.json and config.json no eos_token_id.",
                hint="A model that was never told to stop can't be finetuned to answer.",
            )
        ids["eos_token"] = known[0]
        names["eos_token"] = str(tokenizer.id_to_token(known[0]))
    eos = ids["eos_token"]
    return SpecialTokens(
        names=names,
        eos_id=eos,
        pad_id=ids.get("pad_token", eos),  # where padding stands nothing is learned, nothing looks at it
        stop_ids=tuple(sorted({eos, *known})),
    )


def _content(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [id for id in values if isinstance(id, int) and not isinstance(id, bool) and 0 <= id < 2**31]
