"""Whether a model is still the one a run was started with: a hash of its weights and its config."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from qlora_studio.config.places import cache_folder
from qlora_studio.errors import StudioError

_CHUNK = 4 * 1024**2  # bytes

Told = Callable[[int, int, str], None]


def model_sha256(folder: Path, told: Told) -> str:
    """Of every byte; remembered as long as sizes and times of the files stay. Raises: StudioError."""
    try:
        files = sorted([folder / "config.json", *folder.glob("*.safetensors")])
        known = cache_folder() / "hashes" / _signature(files)
        if known.exists():
            return known.read_text("ascii")
        total = sum(file.stat().st_size for file in files)
        digest, done = hashlib.sha256(), 0
        for file in files:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
            with file.open("rb") as opened:
                while chunk := opened.read(_CHUNK):
                    digest.update(chunk)
                    done += len(chunk)
                    told(done // 10**6, total // 10**6, "Hashing the model's weights, MB")
    except OSError as error:
        raise StudioError(f"{error.filename or folder} can't be read: {error.strerror}.") from error
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text(digest.hexdigest(), "ascii")
    return digest.hexdigest()


def _signature(files: list[Path]) -> str:
    about = [(str(file.absolute()), *_facts(file)) for file in files]
    return hashlib.sha256(repr(about).encode("utf-8", "surrogateescape")).hexdigest()


def _facts(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
