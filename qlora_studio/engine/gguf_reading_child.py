"""A GGUF file in a process of its own, read by transformers: what any other program finds in it.

One line of JSON comes in (`Asked`), one goes out (`Found`), then the log-probabilities of each talk as raw
float32. The end of the input is the end of the process.
"""

from __future__ import annotations

import os
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec


class Asked(msgspec.Struct, frozen=True):
    """talks: token ids of prompt and reply, and how many of their last predictions are wanted.

    texts: that the file's tokenizer encodes. dtype: to compute in
    """

    file: str
    talks: list[tuple[list[int], int]]
    texts: list[str]
    dtype: str


class Found(msgspec.Struct, frozen=True):
    """reader: what read the file. ids: of each text. vocab: how many log-probabilities a token has."""

    reader: str
    template: str | None
    ids: list[list[int]]
    vocab: int


def main() -> int:
    """`python -m qlora_studio.engine.gguf_reading_child`"""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.umask(0o077)
    sys.modules["kernels"] = None  # type: ignore[assignment]  # kernels of the hub are foreign code (S1)
    asked = msgspec.json.decode(sys.stdin.buffer.readline(), type=Asked)
    threading.Thread(target=_end_with_input, daemon=True).start()

    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = Path(asked.file)
    here: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **here)
    reader = GGUFReader(file)
    _cut_words_as_named(tokenizer, reader)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        quantization_config=GgufConfig(dequantize=True),
        dtype=getattr(torch, asked.dtype),
        **here,
    ).eval()
    scaled = _scale_positions_as_said(model, reader)
    found = Found(
        reader=f"transformers {metadata.version('transformers')}" + (", positions scaled by us" * scaled),
        template=tokenizer.chat_template,
        ids=[tokenizer.encode(text, add_special_tokens=False) for text in asked.texts],
        vocab=model.config.vocab_size,
    )
    out.write(msgspec.json.encode(found) + b"\n")
    with torch.no_grad():
        for ids, compared in asked.talks:
            logits = model(torch.tensor([ids]), use_cache=False, logits_to_keep=compared).logits[0]
            out.write(logits.float().log_softmax(-1).contiguous().numpy().tobytes())
            out.flush()
    return 0


def _cut_words_as_named(tokenizer: Any, reader: Any) -> None:
    """transformers knows most of the names that a file gives to the way text is cut, but not this one."""
    from tokenizers import pre_tokenizers

    field = reader.get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":  # llama.cpp: each digit is a word
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


def _scale_positions_as_said(model: Any, reader: Any) -> bool:
    """llama.cpp divides the frequencies by this tensor; transformers passes it over. False: there is none."""
    import torch

    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            frequencies = model.get_decoder().rotary_emb.inv_freq
            frequencies /= torch.from_numpy(tensor.data.copy()).to(frequencies.dtype)
            return True
    return False


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
