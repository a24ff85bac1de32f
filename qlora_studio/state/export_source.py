"""What can be exported, and whether a folder can take it: read from the disk beside the window."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from qlora_studio.config.run_config import SHAPE_PREFIX
from qlora_studio.errors import StudioError
from qlora_studio.runs.checkpoints import checkpoints
from qlora_studio.runs.folder import Run
from qlora_studio.runs.history import list_runs
from qlora_studio.runs.samples import read_samples
from qlora_studio.runs.space import free_bytes
from qlora_studio.runs.standing import ENDED
from qlora_studio.state.folders import size_of


@dataclass(frozen=True)
class Source:
    """A run with a finished adapter, or a model of which it trained all weights.

    result:      the folder of the adapter, or of that model
    prompts:     what it was asked at its checkpoints
    checkpoints: folders of those before the last step that aren't known to be damaged, by their step
    """

    run: Run
    result: Path
    result_bytes: int
    prompts: tuple[str, ...]
    checkpoints: dict[int, Path] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.run.folder

    @property
    def best(self) -> int | None:
        """The step of the checkpoint with the best evaluation; None: that is the finished adapter's own."""
        step = self.run.state.best_step
        return step if step in self.checkpoints else None

    def adapter_at(self, step: int | None) -> Path:
        """The folder of a checkpoint, or of the finished adapter."""
        return self.result if step is None else self.checkpoints[step]

    @property
    def is_model(self) -> bool:
        """All weights were trained: there is no adapter."""
        return self.run.record.config.trains_all

    @property
    def model(self) -> str:
        """The base as the run's settings name it, or the model that was made of it."""
        return str(self.result) if self.is_model else self.run.record.config.model.path


@dataclass(frozen=True)
class Place:
    """Where the files would go. problem: why they can't, in a sentence; empty where they can."""

    folder: str = ""
    free_bytes: int | None = None
    problem: str = ""


def sources(runs_folder: Path) -> list[Source]:
    """The newest first. Raises: StudioError where the runs folder can't be read."""
    found = []
    for summary in list_runs(runs_folder):
        run = summary.run
        result = run.adapter or run.model if run is not None else None
        if run is None or result is None or run.record.config.model.path.startswith(SHAPE_PREFIX):
            continue
        if run.state.state in ENDED:
            checkpoints = {} if run.record.config.trains_all else _checkpoints_of(run)
            found.append(Source(run, result, size_of(result), _prompts_of(run), checkpoints))
    return found


def suggested_folder(exports: Path, run: Run, step: int | None, kind: str) -> Path:
    """A name in `exports` that is free: `support-llama8b-merged`, `support-llama8b-merged-2`, ..."""
    name = f"{run.folder.name}-{kind}" if step is None else f"{run.folder.name}-step-{step}-{kind}"
    number = 1
    while os.path.lexists(folder := exports / (name if number == 1 else f"{name}-{number}")):
        number += 1
    return folder


def look_at(folder: str) -> Place:
    """Nothing is made and nothing changed by looking."""
    path = Path(folder).expanduser()
    if not folder.strip():
        return Place(folder, problem="Choose a folder for the files.")
    if not path.is_absolute():
        return Place(folder, problem="Write the folder's whole path.")
    if os.path.lexists(path):
        return Place(folder, problem=f"{path} exists already. Choose a folder that doesn't.")
    there = next(parent for parent in path.parents if os.path.lexists(parent))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Place(folder, problem=f"{there} can't be written to.")
    try:
        return Place(folder, free_bytes(path))
    except StudioError as error:
        return Place(folder, problem=error.message)


def _checkpoints_of(run: Run) -> dict[int, Path]:
    """The one of the last step is the finished adapter."""
    found = checkpoints(run.folder)
    return {info.step: info.path for info in found if not info.reason and info.step != run.state.step}


def _prompts_of(run: Run) -> tuple[str, ...]:
    own = [sample.prompt for sample in run.record.config.samples]
    if not own:
        try:
            own = [sample.prompt for sample in read_samples(run.samples_file).samples]
        except StudioError:
            own = []  # they only help the check; general questions do too
    return tuple(dict.fromkeys(own))
