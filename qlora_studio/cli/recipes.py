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
from qlora_studio.memory.measured import measured_speed
from qlora_studio.memory.promise import promise
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import reading

SAMPLE_SHAPE = "smollm2-135m"


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio recipes`."""
    listed = subparsers.add_parser("recipes", help="the QLoRA paper's recipes, and what each needs here")
    listed.add_argument("--card", type=float, metavar="GIB", help="for a card of this size")
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
    found = [_about(recipe, room, here=arguments.card is None) for recipe in recipes()]
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


def _about(recipe: Recipe, room: Room, *, here: bool) -> dict[str, object]:
    """What it needs, with the model it was made for.

    seconds_at_most: every row as long as may be; None before a run of this kind was measured here
    """
    shape, config = known_shape(recipe.shape), recipe.config
    promised = promise(shape, config, device=room.device, free_bytes=room.free_bytes)
    speed = measured_speed(device_name(room.device), shape, config.model.quantization) if here else None
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


def _hours(seconds: object) -> str:
    if not isinstance(seconds, float):
        return "time: not measured here yet"
    return f"at most {seconds / 3600:.1f} h"
