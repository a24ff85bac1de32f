"""Every checkpoint of a run verified to the byte: what `runs check` tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from qlora_studio.errors import StudioError
from qlora_studio.runs.checkpoints import checkpoints
from qlora_studio.runs.folder import Run, open_run
from qlora_studio.runs.manifest import Told
from qlora_studio.runs.metrics import read_metrics
from qlora_studio.runs.samples import read_samples


class CheckpointCheck(msgspec.Struct, frozen=True, kw_only=True):
    """`reason` names the file where it is not sound."""

    step: int
    sound: bool
    reason: str


class RunCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Scripts rely on these names (`runs check --json`)."""

    run: str
    state: str
    step: int
    checkpoints: tuple[CheckpointCheck, ...]
    warnings: tuple[str, ...]


def check_run(folder: Path, told: Told = lambda done, total, words: None) -> RunCheck:
    """Changes nothing. told: how many bytes of a checkpoint were read.

    Raises: StudioError naming `run.json` where it can't be read.
    """
    run = open_run(folder)
    found = checkpoints(folder, verify=True, told=told)
    return RunCheck(
        run=str(folder),
        state=run.state.state,
        step=run.state.step,
        checkpoints=tuple(
            CheckpointCheck(step=info.step, sound=bool(info.sound), reason=info.reason) for info in found
        ),
        warnings=tuple(dict.fromkeys((*run.warnings, *_warnings_of_logs(run)))),
    )


def _warnings_of_logs(run: Run) -> Iterator[str]:
    for file, skipped_lines in ((run.metrics_file, _skipped_metrics), (run.samples_file, _skipped_samples)):
        try:
            count = skipped_lines(file)
        except StudioError as error:
            yield error.message
            continue
        if count:
            yield f"{file.name}: {count:,} {'line' if count == 1 else 'lines'} skipped"


def _skipped_metrics(file: Path) -> int:
    return read_metrics(file).skipped_lines


def _skipped_samples(file: Path) -> int:
    return read_samples(file).skipped_lines
