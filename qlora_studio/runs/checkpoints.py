"""Checkpoints of a run: saved whole or not at all, listed, verified, and the oldest let go."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import is_real_folder, make_folder
from qlora_studio.runs.manifest import Told, step_name, verify_checkpoint, verify_sizes, write_manifest
from qlora_studio.runs.space import saving
from qlora_studio.runs.staged_folder import bytes_in, delete_folder, write_folder_durably

CHECKPOINTS_FOLDER = "checkpoints"
FEWEST_KEPT = 2  # R9

_STEP_NAME = re.compile(r"step-(\d{6,12})", re.ASCII)


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint found in the run folder. `sound` is None where its bytes were not read."""

    step: int
    path: Path
    sound: bool | None
    reason: str = ""


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on: after `step`, from `path`; from its start where it never saved.

    skipped: newer checkpoints that do not verify
    """

    step: int
    path: Path | None
    skipped: tuple[CheckpointInfo, ...] = ()


def save_checkpoint(
    run_folder: Path,
    step: int,
    write_files: Callable[[Path], None],
    keep: int = FEWEST_KEPT,
    protect: Collection[int] = (),
    expected_bytes: int = 0,
) -> Path:
    """A sound checkpoint of `step`, and the oldest ones gone.

    write_files:    puts the files of the checkpoint into the folder it is given; plain files, no folders
    keep:           how many of the newest stay, at least two
    protect:        steps that stay whatever their age, such as the best evaluation's
    expected_bytes: what it will take, to say how much is missing where the disk fills up
    Raises: StudioError, DiskFullError; all older checkpoints are then as they were.
    """
    folder = run_folder / CHECKPOINTS_FOLDER
    target = folder / step_name(step)
    what = f"step {step:,}"

    def fill(staging: Path) -> None:
        write_files(staging)
        write_manifest(staging, step)

    if is_real_folder(run_folder) and not os.path.lexists(folder):
        with saving(what, target):
            make_folder(folder)
    write_folder_durably(target, fill, what, max(expected_bytes, _bytes_of_newest(run_folder)))
    verdict = verify_checkpoint(target)
    if not verdict.sound:
        raise StudioError(
            f"Step {step:,} was saved, but reads back otherwise: {verdict.reason} ({target}).",
            hint="Older checkpoints are kept. The disk may be failing: check it before you go on.",
        )
    _let_the_oldest_go(run_folder, step, max(keep, FEWEST_KEPT), protect)
    return target


def checkpoints(
    run_folder: Path, *, verify: bool = False, told: Told = lambda done, total, words: None
) -> list[CheckpointInfo]:
    """All checkpoints by step, the oldest first; with `verify` every byte is read. Raises: StudioError."""
    found = []
    for step, path in _by_step(run_folder):
        verdict = verify_checkpoint(path, told) if verify else verify_sizes(path)
        if not verdict.sound and not os.path.lexists(path):
            continue  # the writer has let it go meanwhile
        sound = None if verdict.sound and not verify else verdict.sound
        found.append(CheckpointInfo(step, path, sound, verdict.reason))
    return found


def newest_sound(run_folder: Path) -> CheckpointInfo | None:
    """The newest checkpoint that verifies; reads no more than it must. Raises: StudioError."""
    point = _newest_sound(run_folder)
    return CheckpointInfo(point.step, point.path, True) if point.path else None


def resume_point(run_folder: Path, step: int | None = None) -> ResumePoint:
    """Where the run goes on: the newest sound checkpoint, or the one of `step`.

    Raises: StudioError where the run has checkpoints and none verifies: it never starts afresh quietly (R2).
    """
    if step is not None:
        return _resume_point_at(run_folder, step)
    point = _newest_sound(run_folder)
    if point.path is None and point.skipped:
        newest = point.skipped[0]
        raise StudioError(
            f"No checkpoint of {run_folder.name} is sound. Step {newest.step:,}: {newest.reason}.",
            hint="Start a new run with the same settings.",
        )
    return point


def _let_the_oldest_go(run_folder: Path, step: int, keep: int, protect: Collection[int]) -> None:
    """Keeps the newest `keep` that are whole, all between them, and what is protected.

    That one does not verify is no reason to delete it: a disk may fail to read once. Steps beyond `step` go:
    a resume from before has left them behind.
    """
    kept = 0
    for info in reversed(checkpoints(run_folder)):
        goes = kept == keep or info.step > step
        kept += not goes and not info.reason
        if goes and info.step not in protect:
            with contextlib.suppress(OSError):  # the new one is safe; the next save tries again
                delete_folder(info.path)


def _newest_sound(run_folder: Path) -> ResumePoint:
    skipped: list[CheckpointInfo] = []
    for step, path in reversed(_by_step(run_folder)):
        verdict = verify_checkpoint(path)
        if verdict.sound:
            return ResumePoint(step, path, tuple(skipped))
        skipped.append(CheckpointInfo(step, path, False, verdict.reason))
    return ResumePoint(0, None, tuple(skipped))


def _resume_point_at(run_folder: Path, step: int) -> ResumePoint:
    path = run_folder / CHECKPOINTS_FOLDER / step_name(step)
    verdict = verify_checkpoint(path)
    if verdict.sound:
        return ResumePoint(step, path)
    other = newest_sound(run_folder)
    raise StudioError(
        f"Step {step:,} of {run_folder.name} can't be used: {verdict.reason}.",
        hint=f"The newest sound checkpoint is step {other.step:,}." if other else "",
    )


def _by_step(run_folder: Path) -> list[tuple[int, Path]]:
    folder = run_folder / CHECKPOINTS_FOLDER
    if not is_real_folder(folder):
        return []
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise StudioError(f"{folder} can't be read: {error.strerror}.") from error
    found = [(int(match[1]), folder / match[0]) for name in names if (match := _STEP_NAME.fullmatch(name))]
    return sorted((step, path) for step, path in found if path.name == step_name(step))


def checkpoints_hold(run_folder: Path) -> int:
    """Bytes of the run's checkpoints; 0 where there are none or they can't be read."""
    try:
        with os.scandir(run_folder / CHECKPOINTS_FOLDER) as entries:
            return sum(bytes_in(Path(entry)) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return 0


def _bytes_of_newest(run_folder: Path) -> int:
    found = _by_step(run_folder)
    return bytes_in(found[-1][1]) if found else 0
