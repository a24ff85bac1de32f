"""Pickle files are refused by name; they are not even opened, for opening one can run code (S1)."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.models.model_folder import ModelFolder

_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def pickle_error(source: ModelFolder) -> StudioError | None:
    """What to say of a folder without safetensors; None where it has no pickles either."""
    kinds = sorted({Path(name).suffix for name in source.names() if name.endswith(_SUFFIXES)})
    if not kinds:
        return None
    return StudioError(
        f"{source.path}: Only safetensors files are read; this folder has {' and '.join(kinds)} files, "
        "which can run code.",
        hint="Look for a safetensors version.",
    )
