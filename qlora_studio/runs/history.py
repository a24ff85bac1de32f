"""All runs of a runs folder, the newest first; one that can't be read is a row with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import is_real_folder
from qlora_studio.runs.folder import Run, open_run


@dataclass(frozen=True)
class RunSummary:
    """A row of the history.

    state:  that of RunState, or "unreadable"
    reason: why it is unreadable, or what a failed run said
    run:    None where it is unreadable
    """

    folder: Path
    name: str
    state: str
    reason: str = ""
    run: Run | None = None


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """Reads two small files a run. Never raises for a run: a broken one does not hide the others (R6)."""
    try:
        folders = [path for path in runs_dir.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StudioError(f"{runs_dir} can't be read: {error.strerror}.") from error
    rows = [_summary(folder) for folder in folders if folder.is_symlink() or is_real_folder(folder)]
    return sorted(rows, key=lambda row: (row.run.record.created if row.run else 0.0, row.name), reverse=True)


def _summary(folder: Path) -> RunSummary:
    try:
        run = open_run(folder)
    except StudioError as error:
        return RunSummary(folder, folder.name, "unreadable", error.message)
    return RunSummary(folder, run.name, run.state.state, run.state.message, run)
