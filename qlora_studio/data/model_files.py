"""The small files of a model folder, read within limits; nothing in them is run."""

from __future__ import annotations

import json
import os
import stat
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

from qlora_studio.errors import StudioError


def read_if_there(file: Path, largest: int) -> bytes | None:
    """The whole file, or None where there is none. Raises: StudioError."""
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StudioError(f"{file} can't be read: {error.strerror}.") from error
    with os.fdopen(descriptor, "rb") as opened:
        about = os.fstat(descriptor)  # of what was opened: a name may point elsewhere a moment later
        if not stat.S_ISREG(about.st_mode):
            raise StudioError(f"{file} is no regular file.")
        if about.st_size > largest:
            raise StudioError(
                f"{file} has {about.st_size:,} bytes; such a file has {largest:,} at most.",
                hint="It may be damaged: get the model again.",
            )
        return opened.read(largest)


def read_object(file: Path, largest: int = 16_000_000) -> dict[str, Any]:
    """A JSON object; empty where the file is missing. Raises: StudioError naming the file."""
    data = read_if_there(file, largest)
    return {} if data is None else object_from(data, file)


def object_from(data: bytes, file: Path) -> dict[str, Any]:
    """A byte order mark, which some editors put first, is passed over.

    Raises: StudioError where `data` is no JSON object.
    """
    try:
        value = json.loads(data.removeprefix(BOM_UTF8).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: of the encoding and of the JSON
        raise StudioError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise StudioError(f"{file} holds no JSON object.")
    return value
