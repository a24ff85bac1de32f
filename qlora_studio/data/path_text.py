"""A path as text: a file's name may be any bytes, a message and a report are text (D11)."""

from __future__ import annotations

import os
from pathlib import Path


def path_text(path: Path) -> str:
    """The path for a person to read; bytes that are no UTF-8 stand as \\x.."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
