"""`sweep`: the same run with one thing changed, one after another, in one table and one picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from qlora_studio.cli.children import Engine, Reader
from qlora_studio.cli.counted import counted
from qlora_studio.cli.output import Told, in_gib, print_json, print_text
from qlora_studio.cli.recipes import chosen_shape
from qlora_studio.cli.start import with_shape_of_start
from qlora_studio.cli.there import require_inputs
from qlora_studio.cli.training import STOPPED, follow_run, prepare_run, settings_from
from qlora_studio.config import places
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.config.toml_file import with_changes
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from qlora_studio.protocol.sweep_plan import OVER, RANKS, new_sweep
from qlora_studio.runs.sweep import (
    SWEEP_FILE,
    Row,
    Sweep,
    found,
    read_sweep,
    save_results,
    table,
    unfinished,
    with_run,
    write_sweep,
)

OTHER_TOKENS = (
    "The losses are over different tokens, so they don't compare. What does: right answers to the same "
    "questions, by `qlora-studio evaluate RUN --on FILE`."
)


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio sweep`."""
    sweep = subparsers.add_parser("sweep", help="the same run with one thing changed, one after another")
    sweep.add_argument(
        "what", type=Path, metavar="FILE.toml|SWEEP", help="the settings, 'sample', or a sweep to go on with"
    )
    sweep.add_argument("--out", type=Path, metavar="SWEEP", help="folder for list, table and picture")
    kind = sweep.add_mutually_exclusive_group()
    kind.add_argument(
        "--over",
        choices=OVER,
        help=f"ranks {', '.join(map(str, RANKS))}; adapters on attention, on feed-forward or on all linear "
        "layers; NF4 against 16 bit; all weights against adapters on 16 bit and on NF4",
    )
    kind.add_argument("--vary", metavar="a.b=v,w,…", help="any setting")
    sweep.add_argument(
        "--full-rate",
        type=float,
        metavar="LR",
        help="of --over finetuning: learning rate where all weights learn; else a tenth of the adapters' "
        "(settings that train all weights have theirs: the adapters get ten times that)",
    )
    sweep.add_argument(
        "--seeds", nargs="+", type=int, metavar="N", help="each with each of these; else the settings' own"
    )
    sweep.add_argument("--set", action="append", default=[], metavar="a.b=v", dest="changes")
    sweep.add_argument("--runs-dir", type=Path, metavar="D", help="where the runs' folders are made")
    sweep.add_argument("--accept-skipped", action="store_true")
    sweep.add_argument("--json", action="store_true")
    sweep.set_defaults(run=sweep_command)


def sweep_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError where a run fails; what is finished stays, and the same command goes on."""
    folder, sweep = _opened(arguments)
    for place in unfinished(found(sweep)):
        try:
            sweep, stopped = _run_point(folder, sweep, place, quiet=arguments.json)
        except KeyboardInterrupt:
            _tell_how_to_go_on(folder, arguments.json)
            raise
        if stopped and unfinished(found(sweep)):
            _tell_how_to_go_on(folder, arguments.json)
            return STOPPED
    results = found(sweep)
    files = save_results(folder, sweep, results)
    rows = table(sweep, results)
    if arguments.json:
        print_json(
            {
                "rows": [msgspec.to_builtins(row) for row in rows],
                "runs": [item.point.run for item in results],
                "files": [str(path) for path in files],
            }
        )
        return 0
    for line in table_lines(sweep, rows):
        print_text(line)
    print_text(f"written to {folder}: {', '.join(path.name for path in files)}")
    return 0


def _tell_how_to_go_on(folder: Path, as_json: bool) -> None:
    if not as_json:
        print_text(f"To go on: qlora-studio sweep {folder}")


def _opened(arguments: argparse.Namespace) -> tuple[Path, Sweep]:
    """The sweep that is there already, or a new one, written."""
    if (arguments.what / SWEEP_FILE).is_file():
        asked = ("out", "over", "vary", "full_rate", "seeds", "changes", "runs_dir", "accept_skipped")
        if any(getattr(arguments, name) for name in asked):
            raise StudioError(f"{arguments.what} is a sweep already.", hint="Name it alone to go on with it.")
        return arguments.what.absolute(), read_sweep(arguments.what)
    if not arguments.what.exists() and str(arguments.what) != SAMPLE:
        raise StudioError(
            f"{arguments.what} isn't there.", hint="Name a file of settings, 'sample', or a sweep's folder."
        )
    if arguments.out is None or not (arguments.over or arguments.vary):
        raise StudioError(
            "A new sweep needs --out and either --over or --vary.",
            hint="For example: qlora-studio sweep my.toml --over ranks --out my-ranks",
        )
    if arguments.full_rate is not None and arguments.over != "finetuning":
        raise StudioError("--full-rate belongs to --over finetuning.")
    if arguments.out.exists():
        raise StudioError(
            f"{arguments.out} exists already.",
            hint=f"qlora-studio sweep {arguments.out} goes on with a sweep.",
        )
    config = with_shape_of_start(settings_from(arguments.what, arguments.changes), arguments.runs_dir)
    require_inputs(config)
    sweep = new_sweep(
        config,
        chosen_shape(config.model.path),
        over=arguments.over or "",
        vary=arguments.vary or "",
        rate_of_all=arguments.full_rate,
        seeds=arguments.seeds or [config.training.seed],
        runs_dir=(arguments.runs_dir or places.runs_folder()).absolute(),
        accept_skipped=arguments.accept_skipped,
    )
    write_sweep(arguments.out, sweep)
    return arguments.out.absolute(), sweep


def _run_point(folder: Path, sweep: Sweep, place: int, *, quiet: bool) -> tuple[Sweep, bool]:
    """Made, or gone on with. True: somebody stopped it, be it after its last step."""
    (measured,) = found(msgspec.structs.replace(sweep, points=(sweep.points[place],)))
    point = measured.point
    if not quiet:
        print_text(f"{place + 1} of {len(sweep.points)}: {point.label}, seed {point.seed}")
    with Told(quiet=quiet) as told, Engine(told) as engine:
        if point.run:
            engine.expect_training()
            with Reader(told) as reader:
                reader.ask(reading.ResumeReady, reading.CheckResume, run=point.run)
        else:
            config = with_changes(sweep.config, point.changes)
            name = sweep.name_of(point)
            prepared = prepare_run(engine, told, config, name, Path(sweep.runs_dir), sweep.accept_skipped)
            sweep = with_run(sweep, place, prepared.run)
            write_sweep(folder, sweep)
            point = sweep.points[place]
        follow_run(engine, Path(point.run), told, as_json=False, silent=quiet)
    return sweep, engine.was_interrupted


def table_lines(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """For a person."""
    width = max(len(row.label) for row in rows) + 2
    lines = [
        sweep.title,
        f"{'':<{width}}{'loss':>9}{'± 95 %':>9}{'less first':>12}{'± 95 %':>9}{'trained':>12}{'peak':>11}",
    ]
    for row in rows:
        numbers = zip((9, 9, 12, 9), (row.loss, row.error, row.less, row.less_error), strict=True)
        lines.append(
            f"{row.label:<{width}}"
            + "".join(f"{'' if number is None else f'{number:.4f}':>{room}}" for room, number in numbers)
            + f"{row.parameters:>12,}{in_gib(row.peak_bytes):>11}"
        )
    seeds = len({point.seed for point in sweep.points})
    lines.append(f"evaluation loss after the last update, {counted(seeds, 'seed')}")
    if not all(row.comparable for row in rows):
        lines.append(OTHER_TOKENS)
    return lines
