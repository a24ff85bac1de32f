"""Tokenizers of older model folders, as vocabulary and merges in files of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qlora_studio.data.model_files import read_if_there, read_object
from qlora_studio.errors import StudioError

_LARGEST_PART = 50_000_000  # bytes
_GET_IT_AGAIN = "Get the model again with its tokenizer.json; nearly all models have one."

# Their splitting of text into words, before any merge, is GPT-2's.
_BYTE_LEVEL = ("GPT2Tokenizer", "GPT2TokenizerFast", "CodeGenTokenizer", "CodeGenTokenizerFast", "")


def definition_from_parts(folder: Path) -> bytes:
    """What tokenizer.json would hold. Raises: StudioError where the folder has nothing to make it from."""
    vocabulary = read_object(folder / "vocab.json", _LARGEST_PART)
    merges = read_if_there(folder / "merges.txt", _LARGEST_PART)
    kind = read_object(folder / "tokenizer_config.json").get("tokenizer_class", "")
    if vocabulary and merges is not None and kind in _BYTE_LEVEL:
        return json.dumps(_byte_level(vocabulary, merges, folder)).encode()
    if (folder / "tokenizer.model").exists():
        found = "tokenizer.model, a SentencePiece file,"
    elif vocabulary:
        found = f"a vocabulary for {kind or 'an unknown tokenizer'}"
    elif not folder.is_dir():
        raise StudioError(f"{folder} does not exist or can't be read.", hint="Choose a model's folder.")
    else:
        raise StudioError(f"{folder} holds no tokenizer.", hint=_GET_IT_AGAIN)
    raise StudioError(
        f"{folder} holds {found} but no tokenizer.json.",
        hint=_GET_IT_AGAIN,
    )


def _byte_level(vocabulary: dict[str, Any], merges: bytes, folder: Path) -> dict[str, Any]:
    try:
        lines = merges.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise StudioError(f"{folder / 'merges.txt'} is not UTF-8 text at byte {error.start:,}.") from error
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    end = "<|endoftext|>"
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [{"id": vocabulary[end], "content": end, **special}] if end in vocabulary else [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [line for line in lines if line and not line.startswith("#version")],
        },
    }
