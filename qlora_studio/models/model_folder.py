"""A foreign folder: its files are opened by bare name, and only where they really lie in it."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qlora_studio.config.run_config import SHAPE_PREFIX
from qlora_studio.errors import StudioError

_DEVICE_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model or an adapter that somebody else made."""

    path: Path

    def names(self) -> list[str]:
        """What lies in it, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self.path))
        except OSError as error:
            raise StudioError(f"{self.path} can't be opened: {error.strerror}.") from error

    def has(self, name: str) -> bool:
        """Whether something of this name lies there, be it a broken link."""
        return os.path.lexists(self.path / name)

    def open(self, name: str) -> BinaryIO:
        """A regular file of the folder, or of `blobs/` of the same hub cache entry (S3).

        Raises: StudioError where the name isn't bare, its real path lies elsewhere or is no regular file.
        """
        path = self.real_path(name)
        try:
            descriptor = os.open(
                path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            )
        except OSError as error:
            raise StudioError(f"{self.path / name} can't be opened: {error.strerror}.") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StudioError(f"{self.path / name} is no regular file.")
        return os.fdopen(descriptor, "rb")

    def read(self, name: str, limit: int) -> bytes:
        """A small file. Raises: StudioError where it is longer than `limit` bytes."""
        with self.open(name) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise StudioError(f"{self.path / name} is longer than {limit:,} bytes.")
        return data

    def real_path(self, name: str) -> Path:
        """Raises: StudioError where the name isn't bare, or its real path lies outside."""
        if not is_bare(name):
            raise StudioError(f"{self.path}: {name[:200]!r} is not the name of a file in this folder.")
        try:
            real = (self.path / name).resolve(strict=True)
        except FileNotFoundError as error:
            raise StudioError(
                f"{self.path / name} is missing.", hint="Download the model again, or copy the file here."
            ) from error
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            raise StudioError(f"{self.path / name} can't be opened: {error}.") from error
        if real.parent not in self._allowed_folders():
            raise StudioError(
                f"{self.path / name} is a link to {real}, outside the model's folder.",
                hint="Copy the file itself into the folder.",
            )
        return real

    def _allowed_folders(self) -> set[Path]:
        folder = self.path.resolve()
        allowed = {folder}
        if folder.parent.name == "snapshots":  # models--NAME/snapshots/COMMIT of a hub cache
            allowed.add(folder.parent.parent / "blobs")
        return allowed


def open_folder(path: Path, hint: str = "Choose a model's folder.") -> ModelFolder:
    """Raises: StudioError where `path` is no folder; `hint`: what to do where there is nothing."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if path.name.startswith(SHAPE_PREFIX):
            only = "for `qlora-studio train` and `estimate` alone"
            raise StudioError(f"{path.name} is a shape with random weights, {only}.", hint=hint) from error
        raise StudioError(f"{path} does not exist or can't be read.", hint=hint) from error
    if not stat.S_ISDIR(mode):
        raise StudioError(f"{path} is not a folder.", hint="Choose the folder that holds config.json.")
    return ModelFolder(path)


def is_bare(name: str) -> bool:
    """A plain file name on every system: no folder, drive, control character or device (S12)."""
    return (
        0 < len(name) <= 255
        and name not in (".", "..")
        and not any(mark in name for mark in '/\\:*?"<>|')
        and name.isprintable()
        and name.partition(".")[0].strip().lower() not in _DEVICE_NAMES
        and (sys.platform != "win32" or not name.endswith((" ", ".")))
    )
