"""What the Monitor has read of a run's folder beside the window: each gives what is drawn next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.memory.devices import ram_reading
from qlora_studio.protocol.events import EngineEvent
from qlora_studio.runs.checkpoints import resume_point
from qlora_studio.runs.folder import Run, open_run
from qlora_studio.runs.lock import is_locked
from qlora_studio.runs.metrics import METRICS_FILE, MetricsTail
from qlora_studio.runs.metrics_sketch import sketched
from qlora_studio.runs.samples import SAMPLES_FILE, Sample, read_samples
from qlora_studio.state.curves import Curves, Points


@dataclass(frozen=True)
class Loaded:
    """All of a run. run: None where run.json can't be read; `problem` says why, the curves are there.

    ram_bytes: of this machine, beside which a run without a card is drawn
    """

    folder: Path
    run: Run | None
    problem: str
    curves: Curves
    points: Points
    samples: tuple[Sample, ...]
    ram_bytes: int


@dataclass(frozen=True)
class Grown:
    """The curves once more. locked: somebody writes to the run."""

    curves: Curves
    points: Points
    locked: bool = True


def sketch(folder: Path, smoothing: float) -> tuple[Path, Points | None]:
    """The course of a long run, before it is loaded. None: it is loaded as soon."""
    tail = sketched(folder / METRICS_FILE)
    return folder, Curves(tail, smoothing).points() if tail else None


def load(folder: Path, smoothing: float) -> Loaded:
    """What can't be read is said, and hides nothing else."""
    run, problems = None, []
    try:
        run = open_run(folder)
    except StudioError as error:
        problems.append(str(error))
    planned = run.record.prepared.steps if run else 0
    curves = Curves(MetricsTail(folder / METRICS_FILE), smoothing, planned)
    samples: tuple[Sample, ...] = ()
    try:
        curves.read(to_the_end=not is_locked(folder))
        samples = read_samples(folder / SAMPLES_FILE).samples
    except StudioError as error:
        problems.append(str(error))
    ram_bytes = ram_reading().total_bytes  # here: loading psutil takes two frames
    return Loaded(folder, run, " ".join(problems), curves, curves.points(), samples, ram_bytes)


def take(curves: Curves, heard: Sequence[EngineEvent]) -> Grown:
    """With what the engine told meanwhile."""
    curves.take(heard)
    return Grown(curves, curves.points())


def smooth(curves: Curves, weight: float) -> Grown:
    """With another smoothing."""
    curves.smooth(weight)
    return Grown(curves, curves.points())


def follow(curves: Curves, folder: Path) -> Grown:
    """With what another window's engine has written meanwhile. Raises: StudioError."""
    locked = is_locked(folder)
    curves.read(to_the_end=not locked)
    return Grown(curves, curves.points(), locked)


def resume_step(folder: Path) -> tuple[Path, int]:
    """Reads every byte of the newest checkpoint: only what is sound is offered (R2). 0: it never saved.

    Raises: StudioError where it has checkpoints and none is sound.
    """
    return folder, resume_point(folder).step
