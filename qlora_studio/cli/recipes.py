"""The QLoRA paper's recipes in the terminal: the list, and a run's settings from one of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from qlora_studio.cli.children import Reader
from qlora_studio.cli.output import print_json, print_text
from qlora_studio.cli.room import Room, room_here, room_of_card
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.recipes import Recipe, recipe_named, recipes
from qlora_studio.config.run_config import SAMPLE, SHAPE_PREFIX, RunConfig
from qlora_studio.config.toml_file import parse_assignment, with_absolute_paths, with_changes
from qlora_studio.errors import StudioError
from qlora_studio.memory.devices import device_name
from qlora_studio.memory.parts import PART_NAMES
from qlora_studio.memory.promise import Promise, promise
from qlora_studio.memory.speed import speed_here
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import reading
from qlora_studio.runs.space import saving
from qlora_studio.svg_chart import Layer, stacked_bars

SAMPLE_SHAPE = "smollm2-135m"


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio recipes`."""
    listed = subparsers.add_parser("recipes", help="the QLoRA paper's recipes, and what each needs here")
    listed.add_argument("names", nargs="*", metavar="NAME", help="these alone")
    listed.add_argument("--card", type=float, metavar="GIB", help="for a card of this size")
    listed.add_argument("--set", action="append", default=[], metavar="A.B=V", dest="changes")
    listed.add_argument("--picture", metavar="FILE.svg", help="draw the memory of each by part")
    listed.add_argument("--json", action="store_true")
    listed.set_defaults(run=recipes_command)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """In place of a settings file."""
    parser.add_argument("--recipe", metavar="NAME", help="one of the paper's, as `recipes` lists them")
    parser.add_argument("--model", metavar="FOLDER", help="that is trained by the recipe")
    parser.add_argument("--data", metavar="FILE", help="that it learns from")


def recipes_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    room = room_here() if arguments.card is None else room_of_card(arguments.card)
    chosen = list(map(recipe_named, arguments.names)) or list(recipes())
    changes = dict(parse_assignment(change) for change in arguments.changes)
    configs = [with_changes(recipe.config, changes, "--set") for recipe in chosen]
    shapes = [known_shape(recipe.shape) for recipe in chosen]
    promises = [
        promise(shape, config, device=room.device, free_bytes=room.free_bytes, free_ram_bytes=room.ram_bytes)
        for shape, config in zip(shapes, configs, strict=True)
    ]
    found = [
        _about(recipe, config, promised, room, here=arguments.card is None)
        for recipe, config, promised in zip(chosen, configs, promises, strict=True)
    ]
    if arguments.picture is not None:
        _draw(Path(arguments.picture), [recipe.key for recipe in chosen], promises, room)
    if arguments.json:
        print_json({"recipes": found, "free_gib": room.free_bytes / 2**30})
        return 0
    print_text(f"with {room.free_bytes / 2**30:.1f} GiB {room.words}:")
    for about in found:
        print_text(
            f"{about['recipe']:<18} {about['total_gib']:6.1f} GiB  {about['verdict']:<10} "
            f"{about['updates']:>6,} updates  {_hours(about['seconds_at_most'])}  {about['summary']}"
        )
    return 0


def chosen_recipe(arguments: argparse.Namespace) -> Recipe | None:
    """None where a settings file is named. Raises: StudioError where it isn't one of the two."""
    if arguments.recipe is None:
        if arguments.file is None:
            raise StudioError("Missing: FILE.toml.", hint="Or --recipe NAME; `recipes` lists them.")
        if arguments.model or arguments.data:
            raise StudioError(
                "--model and --data go with --recipe.", hint="--set model.path=… changes a settings file."
            )
        return None
    if arguments.file is not None:
        raise StudioError(f"{arguments.file} and --recipe are both settings.", hint="Name one of them.")
    return recipe_named(arguments.recipe)


def recipe_settings(recipe: Recipe, arguments: argparse.Namespace) -> RunConfig:
    """For the model and the data of the person's own. Raises: StudioError where one is missing."""
    if not arguments.model or not arguments.data:
        raise StudioError(
            f"The recipe {recipe.key} needs a model and data.",
            hint=f"--model FOLDER --data FILE; '{SAMPLE}' is the bundled one, {SHAPE_PREFIX}{recipe.shape} "
            "a model with random weights.",
        )
    own = with_changes(recipe.config, {"model.path": arguments.model, "data.path": arguments.data})
    changed = with_changes(own, dict(parse_assignment(change) for change in arguments.changes), "--set")
    return with_absolute_paths(changed, Path.cwd())


def recipe_notes(recipe: Recipe, config: RunConfig, data_format: str) -> list[str]:
    """Why the recipe may not suit this model or this data. Raises: StudioError."""
    random = config.model.path.startswith(SHAPE_PREFIX)  # such weights learn random rows
    shape, made_for = chosen_shape(config.model.path), known_shape(recipe.shape)
    return recipe.doubts(shape, made_for, "" if random else data_format)


def chosen_shape(model: str) -> ModelShape:
    """Of a model as a run's settings name it. Raises: StudioError where it isn't sound."""
    if model == SAMPLE:
        return known_shape(SAMPLE_SHAPE)
    if model.startswith(SHAPE_PREFIX):
        return known_shape(model.removeprefix(SHAPE_PREFIX))
    with Reader() as reader:
        folder = str(Path(model).absolute())
        return reader.ask(reading.ModelChecked, reading.CheckModel, folder=folder).report.shape


def _about(
    recipe: Recipe, config: RunConfig, promised: Promise, room: Room, *, here: bool
) -> dict[str, object]:
    """What it needs, with the model it was made for.

    seconds_at_most: every row as long as may be; None before a run of this kind was measured here
    """
    shape = known_shape(recipe.shape)
    speed = (
        speed_here(
            device_name(room.device),
            shape,
            config,
            device=room.device,
            card_multiplies_in_fp8=room.may_multiply_in_fp8,
        )
        if here
        else None
    )
    training = config.training
    tokens = training.steps * training.batch_size * training.gradient_accumulation * config.data.seq_len
    return {
        "recipe": recipe.key,
        "name": recipe.name,
        "summary": recipe.summary,
        "total_gib": promised.total / 2**30,
        "verdict": promised.verdict,
        "updates": training.steps,
        "seconds_at_most": tokens / speed if speed else None,
    }


def _draw(file: Path, names: list[str], promises: list[Promise], room: Room) -> None:
    """Raises: StudioError where the picture can't be written."""
    layers = [
        Layer(name, f"vram_{part}", [promised.parts.get(part, 0) / 2**30 for promised in promises])
        for part, name in PART_NAMES.items()
    ]
    free = room.free_bytes / 2**30
    picture = stacked_bars("Memory at the peak", "GiB", names, layers, (f"{free:.1f} GiB {room.words}", free))
    with saving("the picture", file):
        file.write_text(picture, encoding="utf-8", newline="")


def _hours(seconds: object) -> str:
    if not isinstance(seconds, float):
        return "time: not measured here yet"
    return f"at most {seconds / 3600:.1f} h"
