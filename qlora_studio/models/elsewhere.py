"""Ready lines for what was exported: how other programs load it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

ADAPTER_CONFIG = "adapter_config.json"
MODELFILE = "Modelfile"


@dataclass(frozen=True)
class ReadyLine:
    """program: that reads it, by its own name. text: to be pasted as it stands; Python, or else a command."""

    program: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, as far as the lines name it.

    base: folder of the model below an adapter. rank: of that adapter. name: to call it by
    has_source: the model is an encoder-decoder
    """

    folder: str
    files: tuple[str, ...]
    base: str
    rank: int
    name: str
    has_source: bool = False

    @property
    def auto_model(self) -> str:
        """transformers' class that reads such models."""
        return "AutoModelForSeq2SeqLM" if self.has_source else "AutoModelForCausalLM"

    def at(self, file: str) -> str:
        """A file of it, for a shell."""
        return shlex.quote(str(PurePath(self.folder) / file))


def ready_lines(exported: Exported) -> list[ReadyLine]:
    """The usual programs that read what these files are."""
    ggufs = [file for file in exported.files if file.endswith(".gguf")]
    if ADAPTER_CONFIG in exported.files:
        return list(_of_adapter(exported))
    return list(_of_gguf(exported, ggufs) if ggufs else _of_merged(exported))


def _of_adapter(exported: Exported) -> Iterator[ReadyLine]:
    base, folder = json.dumps(exported.base), json.dumps(exported.folder)
    yield ReadyLine(
        "transformers + peft",
        f"from peft import PeftModel; from transformers import {exported.auto_model}; "
        f"model = PeftModel.from_pretrained({exported.auto_model}.from_pretrained({base}), {folder})",
    )
    if exported.has_source:
        return  # vLLM serves none
    adapter = shlex.quote(f"{exported.name}={exported.folder}")
    yield ReadyLine(
        "vLLM",
        f"vllm serve {shlex.quote(exported.base)} --enable-lora --max-lora-rank {_vllm_rank(exported.rank)} "
        f"--lora-modules {adapter}",
    )


def _of_merged(exported: Exported) -> Iterator[ReadyLine]:
    yield ReadyLine(
        "transformers",
        f"from transformers import {exported.auto_model}; "
        f'model = {exported.auto_model}.from_pretrained({json.dumps(exported.folder)}, dtype="auto")',
    )
    if not exported.has_source:  # vLLM serves none
        yield ReadyLine("vLLM", f"vllm serve {shlex.quote(exported.folder)}")


def _of_gguf(exported: Exported, files: list[str]) -> Iterator[ReadyLine]:
    yield ReadyLine("llama.cpp", f"llama-cli -m {exported.at(files[0])}")
    yield ReadyLine("llama.cpp, as a server", f"llama-server -m {exported.at(files[0])}")
    if MODELFILE in exported.files:
        name = shlex.quote(exported.name)
        yield ReadyLine("Ollama", f"ollama create {name} -f {exported.at(MODELFILE)} && ollama run {name}")


def _vllm_rank(rank: int) -> int:
    """It takes ranks of its own list alone: the next one."""
    return next((known for known in (8, 16, 32, 64, 128, 256, 320, 512) if known >= rank), rank)
