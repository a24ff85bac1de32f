"""A byte-level tokenizer as Llama 3, Qwen 2 and SmolLM2 have them, small enough for a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

VOCAB = 288  # rows of the embedding: bytes, merges, special tokens, and some that no token has
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CUTS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "qwen2": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
CUTS["llama-bpe"] = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
TEMPLATE = "{% for message in messages %}<|begin|>{{ message.content }}<|end|>\n{% endfor %}"


def write_byte_tokenizer(folder: Path, cut: str = "gpt-2") -> None:
    """In place of the folder's tokenizer. cut: one of `CUTS`, by llama.cpp's name."""
    vocab = {letter: row for row, letter in enumerate(bytes_to_unicode().values())}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("1", "2"), ("e", "r")]
    vocab |= {"".join(pair): 256 + row for row, pair in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=cut == "llama-bpe"))
    tokenizer.pre_tokenizer = CUTS[cut]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|begin|>", "<|end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
