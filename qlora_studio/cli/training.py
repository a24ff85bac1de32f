"""`train` and `resume`: a run in the terminal."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from qlora_studio.cli.children import Engine, Reader
from qlora_studio.cli.counted import counted
from qlora_studio.cli.output import Told, in_gib, print_at_once, print_json, print_text
from qlora_studio.cli.recipes import add_recipe_arguments, chosen_recipe, recipe_notes, recipe_settings
from qlora_studio.cli.room import room_here
from qlora_studio.cli.there import require_inputs
from qlora_studio.config import places
from qlora_studio.config.presets import sample_preset
from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import (
    parse_assignment,
    read_run_config,
    with_absolute_paths,
    with_changes,
)
from qlora_studio.errors import StudioError
from qlora_studio.protocol import commands, events, reading
from qlora_studio.runs.checkpoints import newest_sound
from qlora_studio.runs.less_memory import WAYS, Way
from qlora_studio.runs.named_run import run_folder, with_start_found

_LOADING_S = 10.0  # between lines on what is loaded, in a log
STOPPING = "Stopping; what was learned is saved. Ctrl+C again ends it at once."
STOPPED = 130  # exit status of a run that the user stopped before its last step; it was saved


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio train` and `qlora-studio resume`."""
    train = subparsers.add_parser("train", help="run the settings of a TOML file, or a recipe by name")
    train.add_argument("file", type=Path, nargs="?", metavar="FILE.toml", help="the settings, or 'sample'")
    add_recipe_arguments(train)
    train.add_argument(
        "--runs-dir", type=Path, default=None, metavar="D", help="where the run's folder is made"
    )
    train.add_argument("--name", default="", help="what the run is called")
    train.add_argument(
        "--set", action="append", default=[], metavar="a.b=v", dest="changes", help="replace one setting"
    )
    train.add_argument(
        "--accept-skipped", action="store_true", help="train although over 1 %% of the data was skipped"
    )
    train.add_argument("--json", action="store_true", help="print the engine's events, one a line")
    train.set_defaults(run=train_command)

    resume = subparsers.add_parser("resume", help="continue a run from its newest sound checkpoint")
    resume.add_argument("folder", type=Path, metavar="RUN")
    resume.add_argument(
        "--with",
        action="append",
        default=[],
        choices=WAYS,
        dest="ways",
        metavar="WAY",
        help="take less memory from now on: recompute (all layers, and no weights kept dequantized), "
        "half_rows (at once), eight_bit (optimizer), without_rows (that an out of memory named)",
    )
    resume.add_argument("--json", action="store_true", help="print the engine's events, one a line")
    resume.set_defaults(run=resume_command)


def train_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    recipe = chosen_recipe(arguments)
    config = (
        recipe_settings(recipe, arguments) if recipe else settings_from(arguments.file, arguments.changes)
    )
    runs_dir = arguments.runs_dir or places.runs_folder()
    config = with_start_found(config, runs_dir)
    require_inputs(config)
    with Told(quiet=arguments.json) as told, Engine(told) as engine:
        run = prepare_run(engine, told, config, arguments.name, runs_dir, arguments.accept_skipped)
        if not arguments.json:
            _say_what_starts(run)
            for note in recipe_notes(recipe, config, run.report.format) if recipe else ():
                print_text(f"note: {note}")
        return follow_run(engine, Path(run.run), told, as_json=arguments.json)[0]


def resume_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    folder, ways = run_folder(arguments.folder), tuple(arguments.ways)
    with Told(quiet=arguments.json) as told, Engine(told) as engine:
        engine.expect_training()
        with Reader(told) as reader:
            ready = reader.ask(reading.ResumeReady, reading.CheckResume, run=str(folder), ways=ways)
        if not arguments.json:
            print_text(f"{folder.name} goes on after step {ready.step:,}.")
        return follow_run(engine, folder, told, as_json=arguments.json, ways=ways)[0]


def settings_from(file: Path, changes: Iterable[str]) -> RunConfig:
    """The file's settings, or the sample preset's, with `--set` applied. Raises: StudioError."""
    config = sample_preset().config if str(file) == "sample" else read_run_config(file)
    changed = with_changes(config, dict(parse_assignment(change) for change in changes), "--set")
    return with_absolute_paths(changed, Path.cwd())


def prepare_run(
    engine: Engine, told: Told, config: RunConfig, name: str, runs_dir: Path, accept_skipped: bool
) -> reading.RunPrepared:
    """Everything up to the run's folder. Raises: StudioError."""
    engine.need_model(config.model.path)
    engine.expect_training()
    with Reader(told) as reader:
        return reader.ask(
            reading.RunPrepared,
            reading.PrepareRun,
            config=config,
            name=name,
            runs_dir=str(runs_dir.absolute()),
            accept_skipped=accept_skipped,
            device=engine.ready.device,
            device_memory_bytes=engine.ready.free_bytes,
            device_total_bytes=engine.ready.memory_bytes,
        )


def follow_run(
    engine: Engine, folder: Path, told: Told, as_json: bool, ways: Sequence[Way] = (), silent: bool = False
) -> tuple[int, events.RunFinished]:
    """Trains and tells. Gives the exit status. Raises: StudioError where the run fails.

    ways:   to take less memory from now on
    silent: nothing is printed of a run that ends well
    """
    if as_json:
        print_json(engine.ready)
    engine.say(commands.Train(run=str(folder), ways=tuple(ways)))
    lines = _Lines(told)
    with engine.stopped_by_ctrl_c(lambda: _stop(engine)) as stopped:
        for event in _events_of_run(engine, folder):
            if as_json and not isinstance(event, events.LoadingProgress):
                print_json(event)
            elif not as_json and not silent:
                lines.tell(event)
            if isinstance(event, events.RunFinished):
                return (STOPPED if stopped() and event.state != "finished" else 0), event
            if isinstance(event, events.RunFailed):
                hint = " ".join(filter(None, (event.error.hint, _how_to_resume(event, folder))))
                raise ToldError(event.error.message, hint, told=as_json)
    raise AssertionError("events() ends by raising")


def _stop(engine: Engine) -> None:
    engine.say(commands.StopTraining())
    print_at_once(STOPPING)


def _how_to_resume(failed: events.RunFailed, folder: Path) -> str:
    """Once there is room on the disk, or with less memory; empty where nothing would help."""
    if failed.cause == "disk":
        return f"To go on: qlora-studio resume {folder}"
    ways = " ".join(failed.ways)
    return f"To resume it: qlora-studio resume {folder} --with one of: {ways}" if ways else ""


def _events_of_run(engine: Engine, folder: Path) -> Iterator[events.EngineEvent]:
    """An engine that dies fails the run as well: scripts get the event that they wait for."""
    step = 0
    try:
        for event in engine.events():
            if isinstance(event, events.StepFinished):
                step = event.step
            yield event
    except StudioError as error:
        yield events.RunFailed(
            error=events.Problem(error.message, f"{_what_is_left(folder)} {error.hint}"),
            run=str(folder),
            step=step,
            cause="died",
        )


def _what_is_left(folder: Path) -> str:
    """Of a run whose engine died, and how it goes on; a sentence."""
    resume = f"`qlora-studio resume {folder}`"
    try:
        saved = newest_sound(folder)
    except StudioError as damaged:
        return f"{damaged}"
    if saved is None:
        return f"Nothing was saved yet; {resume} begins at its start."
    return f"What was saved is safe; {resume} goes on from step {saved.step:,}."


class ToldError(StudioError):
    """A failure that the event stream has already told: with `--json` it isn't printed again."""

    def __init__(self, message: str, hint: str, told: bool) -> None:
        super().__init__(message, hint)
        self.told = told


class _Lines:
    """A run as a progress bar, with a line for what stays."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._total_steps = 0
        self._loading_told = -_LOADING_S

    def tell(self, event: events.EngineEvent) -> None:
        match event:
            case events.LoadingProgress():
                self._tell_loading(event)
            case events.RunStarted():
                self._total_steps = event.total_steps
                self._told(f"Step {event.step:,} of {event.total_steps:,}", event.step, event.total_steps)
            case events.EvaluationProgress():
                self._told(event.words or f"Evaluating step {event.step:,}, rows", event.done, event.total)
            case events.Saving():
                self._told(f"Saving step {event.step:,}", 0, 0)
            case events.StepFinished():
                self._told(_step_in_words(event), event.step, self._total_steps)
            case events.ModelLoaded():
                print_text(f"loaded {event.model} in {event.seconds:.0f} s")
                for note in event.notes:
                    print_text(f"note: {note}")
            case events.EvaluationFinished():
                loss = "not a number" if event.loss is None else f"{event.loss:.3f}"
                best = " (best so far)" if event.best else ""
                answers = ""
                if event.right is not None:
                    answers = f", {event.right:,} of {event.questions:,} {event.kind} right"
                print_text(f"step {event.step:,}: evaluation loss {loss}{best}{answers}")
            case events.RewardsMeasured() if event.held_out and event.margin is not None:
                right = (
                    "" if event.accuracy is None else f", {event.accuracy:.0%} of pairs the right way round"
                )
                print_text(f"step {event.step:,}: reward margin {event.margin:.3f}{right}")
            case events.CheckpointSaved():
                print_text(f"step {event.step:,}: saved {Path(event.path).name}")
            case events.RunFinished():
                print_text(f"{event.state} at step {event.step:,}: {event.run}")
                if event.adapter:
                    print_text(f"adapter: {event.adapter}")
                if event.model:
                    print_text(f"model: {event.model}")

    def _tell_loading(self, event: events.LoadingProgress) -> None:
        """Lines where there is no bar: the first at once, then one in a while."""
        if not self._told.shows_bars and time.monotonic() - self._loading_told >= _LOADING_S:
            self._loading_told = time.monotonic()
            print_text(f"{event.words}: {event.done:,} of {event.total:,}")


def _step_in_words(event: events.StepFinished) -> str:
    loss = event.non_finite or f"{event.loss:.3f}"
    memory = in_gib(sum(event.memory.values()))
    spilled = f", {in_gib(event.in_ram_bytes)} of it in RAM" if event.in_ram_bytes else ""
    return f"loss {loss} · {event.tokens_per_second:,.0f} tokens/s · {memory}{spilled}"


def _say_what_starts(run: reading.RunPrepared) -> None:
    report = run.report
    print_text(
        f"{counted(report.rows_in, 'row')} in the file = {report.imported:,} imported + "
        f"{report.skipped:,} skipped + {report.merged:,} merged"
    )
    print_text(
        f"{counted(run.train_rows, 'row')} to learn from, {run.validation_rows:,} held out; "
        f"{counted(run.steps, 'update')}"
    )
    promised = sum(run.promise_bytes.values())
    print_text(f"needs {in_gib(promised)} {room_here().words}")
    for note in run.notes:
        print_text(f"note: {note}")
