"""A run as a person names it: by its folder, as `runs` lists it, or as it was called."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qlora_studio.config import places
from qlora_studio.config.run_config import RunConfig
from qlora_studio.errors import StudioError
from qlora_studio.runs.history import list_runs
from qlora_studio.runs.run_record import RECORD_FILE

_MOST_LISTED = 5


def with_start_found(config: RunConfig, runs_dir: Path | None = None) -> RunConfig:
    """`lora.start_from` may name a run as it is called. Raises: StudioError where there is nothing of it."""
    named = config.lora.start_from
    if not named or Path(named).exists():
        return config
    lora = msgspec.structs.replace(config.lora, start_from=str(run_folder(Path(named), runs_dir)))
    return msgspec.structs.replace(config, lora=lora)


def run_folder(named: Path, runs_dir: Path | None = None) -> Path:
    """Absolute; what a person's link leads to.

    Raises: StudioError where there is neither such a folder nor one run of that name.
    """
    if named.exists():
        folder = named.parent if named.name == RECORD_FILE and named.is_file() else named
        return folder.resolve() if folder.is_symlink() else folder.absolute()  # a run itself is no link (R11)
    runs_dir = (runs_dir or places.runs_folder()).absolute()
    if len(named.parts) == 1:
        if (runs_dir / named).exists():
            return runs_dir / named
        called = [run.folder for run in list_runs(runs_dir) if run.name == named.name]
        if len(called) > 1:
            newest = ", ".join(folder.name for folder in called[:_MOST_LISTED])
            raise StudioError(
                f"{len(called)} runs are called {named}.",
                hint=f"Name one by its folder, the newest first: {newest}.",
            )
        if called:
            return called[0]
    raise StudioError(
        f"There is no folder {named}, and no run of that name.", hint="'qlora-studio runs' lists all runs."
    )
