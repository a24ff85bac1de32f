"""`runs`: what was trained, and whether its checkpoints are sound."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qlora_studio.cli.output import Told, in_gib, print_json, print_text
from qlora_studio.config import places
from qlora_studio.errors import StudioError
from qlora_studio.plain_text import visible_line
from qlora_studio.runs.check import check_run
from qlora_studio.runs.checkpoints import checkpoints
from qlora_studio.runs.evaluations import (
    Evaluation,
    difference_words,
    latest,
    read_evaluations,
    share_words,
    when,
)
from qlora_studio.runs.folder import Run, open_run
from qlora_studio.runs.history import RunSummary, list_runs
from qlora_studio.runs.named_run import run_folder
from qlora_studio.runs.packed_run import pack_run, unpack_run
from qlora_studio.runs.space import in_gb
from qlora_studio.runs.staged_folder import bytes_in

CHECK = "check"
TAKES_A_WHILE = 10**9  # bytes to read
ENDING = ".run.tar"


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio runs`, `runs RUN`, `runs check RUN`, `runs pack RUN` and `runs unpack FILE`."""
    runs = subparsers.add_parser(
        "runs",
        help="history; 'runs RUN' shows one, 'runs check RUN' verifies its checkpoints, "
        "'runs pack RUN' puts it into one file, 'runs unpack FILE' takes it out on another machine",
    )
    runs.add_argument("words", nargs="*", metavar="[check|pack] RUN | unpack FILE")
    runs.add_argument("--runs-dir", type=Path, metavar="D", help="where the runs lie")
    runs.add_argument(
        "--out", type=Path, metavar="FILE", help=f"of pack; RUN{ENDING} in this folder otherwise"
    )
    runs.add_argument("--model", metavar="FOLDER", help="of unpack: where the run's base model lies here")
    runs.add_argument("--json", action="store_true")
    runs.set_defaults(run=runs_command)


def runs_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    match arguments.words:
        case []:
            return _history(arguments.runs_dir or places.runs_folder(), arguments.json)
        case ["check", folder]:
            return _check(run_folder(Path(folder), arguments.runs_dir), arguments.json)
        case ["pack", folder]:
            return _pack(run_folder(Path(folder), arguments.runs_dir), arguments.out, arguments.json)
        case ["unpack", file]:
            runs_dir = arguments.runs_dir or places.runs_folder()
            return _unpack(Path(file), runs_dir.absolute(), arguments.model or "", arguments.json)
        case [folder]:
            return _one(run_folder(Path(folder), arguments.runs_dir), arguments.json)
        case _:
            raise StudioError("runs takes one run.", hint="qlora-studio runs check RUN")


def _history(runs_dir: Path, as_json: bool) -> int:
    summaries = list_runs(runs_dir)
    if as_json:
        print_json({"runs_dir": str(runs_dir), "runs": [_summary_object(item) for item in summaries]})
        return 0
    if not summaries:
        print_text(f"No run yet in {runs_dir}.")
    for item in summaries:
        state = item.run.state if item.run else None
        loss = state.evaluation_loss if state else None
        words = "" if loss is None else f"evaluation loss {loss:.3f}"
        step = state.step if state else 0
        print_text(f"{item.state:<12} step {step:>7,}  {item.folder.name}  {words}".rstrip())
        if item.reason:
            print_text(f"             {item.reason}")
    return 0


def _one(folder: Path, as_json: bool) -> int:
    run = open_run(folder)
    if as_json:
        print_json(_run_object(run))
        return 0
    state = run.state
    print_text(f"{run.name}: {state.state} at step {state.step:,}")
    print_text(f"model {run.record.model_name or run.record.config.model.path}")
    data = run.record.config.data
    paths = " + ".join(data.paths)
    print_text(f"data {paths}, {run.record.prepared.train_rows:,} rows")
    print_text(f"made {time.strftime('%Y-%m-%d %H:%M', time.localtime(run.record.created))}")
    if state.peak_bytes:
        print_text(f"peak {in_gib(state.peak_bytes)}")
    if run.less_memory is not None:
        for words in run.less_memory.words(run.record):
            print_text(f"to take less memory: {words}")
    if run.adapter:
        print_text(f"adapter: {run.adapter}")
    if run.model:
        print_text(f"model, of which all weights were trained: {run.model}")
    evaluations, warnings = _evaluations(run)
    for line in evaluation_lines(evaluations):
        print_text(line)
    for warning in warnings:
        print_text(f"warning: {warning}")
    return 0


def evaluation_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    """Before and after, one line for each file and step: of several times the last. None: no lines."""
    if not evaluations:
        return []
    head = f"{'evaluated on':<28} {'step':>8} {'rows':>8} {'loss':>14}"
    lines = [f"{head} {'right before':>12} {'after':>7}  points (95%)"]
    for item in latest(evaluations):
        before, after = (share_words(share) for share in (item.base_accuracy, item.accuracy))
        losses = [f"{loss:.3f}" for loss in (item.base_loss, item.loss) if loss is not None]
        name = visible_line(Path(item.file).name, 28)
        figures = (
            f"{name:<28} {item.step:>8,} {item.rows:>8,} {' > '.join(losses):>14} {before:>12} {after:>7}"
        )
        lines.append(f"{figures}  {difference_words(item)}   {when(item)}".rstrip())
    return lines


def _check(folder: Path, as_json: bool) -> int:
    if not as_json:
        _say_first_verdict(folder)
    with Told(quiet=as_json) as told:
        checked = check_run(folder, lambda done, total, words: told(words, done, total))
    if as_json:
        print_json(checked)
        return 0
    print_text(f"{checked.run}: {checked.state} at step {checked.step:,}")
    for checkpoint in checked.checkpoints:
        verdict = "sound" if checkpoint.sound else f"damaged: {checkpoint.reason}"
        print_text(f"step {checkpoint.step:,}: {verdict}")
    for warning in checked.warnings:
        print_text(f"warning: {warning}")
    return 0


def _say_first_verdict(folder: Path) -> None:
    """By names and sizes, where reading every byte takes a while. Raises: StudioError."""
    found = checkpoints(folder)
    size = sum(bytes_in(info.path) for info in found if not info.reason)
    if size < TAKES_A_WHILE:
        return
    damaged = [f"step {info.step:,} is damaged: {info.reason}" for info in found if info.reason]
    print_text(
        f"By names and sizes {len(found) - len(damaged):,} of {len(found):,} checkpoints are whole"
        f"{''.join(f'; {words}' for words in damaged)}. Now every byte of them is read, {in_gb(size)}."
    )


def _pack(folder: Path, out: Path | None, as_json: bool) -> int:
    target = (out or Path(f"{folder.name}{ENDING}")).absolute()
    size = pack_run(folder, target)
    if as_json:
        print_json({"run": str(folder), "file": str(target), "bytes": size})
    else:
        print_text(f"Packed {folder.name} into {target}, {in_gb(size)}. Its base model is not in it.")
    return 0


def _unpack(file: Path, runs_dir: Path, model: str, as_json: bool) -> int:
    unpacked = unpack_run(file, runs_dir, str(Path(model).absolute()) if model else "")
    if as_json:
        print_json({"run": str(unpacked.folder), "step": unpacked.step, "bytes": unpacked.bytes})
        return 0
    print_text(
        f"Unpacked {unpacked.folder}, {in_gb(unpacked.bytes)}; newest checkpoint: step {unpacked.step:,}."
    )
    print_text(f"Go on: qlora-studio resume {unpacked.folder.name}")
    return 0


def _summary_object(item: RunSummary) -> dict[str, Any]:
    return {
        "run": str(item.folder),
        "name": item.name,
        "state": item.state,
        "step": item.run.state.step if item.run else 0,
        "evaluation_loss": item.run.state.evaluation_loss if item.run else None,
        "reason": item.reason,
    }


def _evaluations(run: Run) -> tuple[tuple[Evaluation, ...], list[str]]:
    """What can be read of them, and all that is wrong with the run's files (R6)."""
    try:
        read = read_evaluations(run.folder)
    except StudioError as error:
        return (), [*run.warnings, error.message]
    skipped = f"{read.skipped_lines:,} lines of evaluations.jsonl can't be read"
    return read.found, [*run.warnings, *([skipped] if read.skipped_lines else [])]


def _run_object(run: Run) -> dict[str, Any]:
    evaluations, warnings = _evaluations(run)
    return {
        "run": str(run.folder),
        "name": run.name,
        "state": run.state.state,
        "step": run.state.step,
        "adapter": str(run.adapter) if run.adapter else None,
        "trained_model": str(run.model) if run.model else None,
        "record": run.record,
        "less_memory": run.less_memory,
        "evaluations": list(evaluations),
        "warnings": warnings,
    }
