"""A run as it is named in the terminal: by its folder, or as `runs` lists it."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.config import places
from qlora_studio.errors import StudioError


def run_folder(named: Path, runs_dir: Path | None = None) -> Path:
    """Absolute. Raises: StudioError where there is neither such a folder nor such a run."""
    if named.exists():
        return named.absolute()
    listed = (runs_dir or places.runs_folder()).absolute() / named
    if len(named.parts) == 1 and listed.exists():
        return listed
    raise StudioError(
        f"There is no folder {named}, and no run of that name.", hint="'qlora-studio runs' lists all runs."
    )
