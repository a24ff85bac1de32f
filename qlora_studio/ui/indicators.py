"""Ticks and arrows that a style sheet needs as image files, in the theme's colours, kept in the cache."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from qlora_studio.config import places

if TYPE_CHECKING:
    from qlora_studio.ui.theme import Palette


def write_indicators(folder: Path, colors: Palette) -> dict[str, Path]:
    """Name in the style sheet -> file. A file that is there already is kept: its name holds its colour."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        "check": ("check", colors.on_accent, 3.2),
        "partial": ("minus", colors.on_accent, 3.2),
        "down": ("chevron-down", colors.muted, 2.2),
        "up": ("chevron-up", colors.muted, 2.2),
        "right": ("chevron-right", colors.muted, 2.2),
        "down_disabled": ("chevron-down", colors.disabled, 2.2),
        "up_disabled": ("chevron-up", colors.disabled, 2.2),
        "check_disabled": ("check", colors.disabled, 3.2),
        "check_menu": ("check", colors.accent, 2.6),
    }
    files = {}
    for name, (icon, color, stroke) in wanted.items():
        path = folder / f"{icon}-{color[1:]}-{stroke:g}.svg"
        if not path.exists():
            _write_whole(path, colored_svg(icon, color, stroke))
        files[name] = path
    return files


def colored_svg(icon: str, color: str, stroke: float) -> str:
    """A bundled icon with its lines in `color`, `stroke` wide on a grid of 24."""
    source = (places.resources_folder() / "icons" / f"{icon}.svg").read_text(encoding="utf-8")
    source = source.replace("currentColor", color)
    return re.sub(r'stroke-width="[\d.]+"', f'stroke-width="{stroke:g}"', source)


def _write_whole(path: Path, text: str) -> None:
    """Never half a file: a second window may be reading it."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)
