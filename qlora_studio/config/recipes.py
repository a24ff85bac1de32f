"""The QLoRA paper's settings by name: files in `resources/recipes`, for a model and data of the person's own.

Source: QLoRA, arXiv:2305.14314, table 9, and the scripts of its official code.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.places import resources_folder
from qlora_studio.config.presets import Preset, preset_values
from qlora_studio.config.toml_file import run_config_from
from qlora_studio.errors import StudioError

_ALIKE = 1.6  # times the parameters, or as many times fewer: LLaMA's sizes lie further apart

_MEANT = 0.8  # likeness of names from which one may be meant; alpaca-7b and guanaco-7b have 0.63


@dataclass(frozen=True)
class Recipe(Preset):
    """A preset that was made for a size of model and a kind of data.

    shape:   of that model, in `resources/shapes`
    formats: of that data, as an import names them
    """

    shape: str
    formats: tuple[str, ...]

    @property
    def key(self) -> str:
        """What `train --recipe` calls it."""
        return self.path.stem

    def doubts(self, shape: ModelShape | None, made_for: ModelShape, data_format: str = "") -> list[str]:
        """Why it may not suit, in sentences: another size or family of model, another kind of data.

        shape:       of the model that is chosen; None where it isn't known
        data_format: that was found in the data; empty where it isn't known
        """
        found = []
        if shape is not None and (shape.family != made_for.family or not _alike(shape, made_for)):
            found.append(
                f"{self.name} was made for {made_for.family} of {_size(made_for)} parameters; this model is "
                f"{shape.family} of {_size(shape)}. Smaller models take a larger learning rate."
            )
        if data_format and data_format not in self.formats:
            found.append(f"{self.name} was made for {_or(self.formats)}; this data is {data_format}.")
        return found


def recipes() -> list[Recipe]:
    """By kind of data, the smallest model first."""
    found = []
    for file in (resources_folder() / "recipes").glob("*.toml"):
        values, name, summary = preset_values(file)
        shape, formats = str(values.pop("shape")), tuple(values.pop("formats"))
        config = run_config_from(values, str(file))
        found.append(Recipe(name, summary, config, file, shape, formats))
    return sorted(found, key=_place)


def recipe_named(key: str) -> Recipe:
    """Raises: StudioError naming those that are there, first the one that may be meant."""
    known = {recipe.key: recipe for recipe in recipes()}
    if key in known:
        return known[key]
    meant = difflib.get_close_matches(key[:60].lower(), known, n=1, cutoff=_MEANT)
    hint = f"Did you mean {meant[0]}? " if meant else ""
    raise StudioError(f"There is no recipe {key[:60]!r}.", hint=f"{hint}Recipes: {', '.join(known)}.")


def _place(recipe: Recipe) -> tuple[int, int]:
    kind, _, size = recipe.key.rpartition("-")
    kinds = ("guanaco", "instructions", "hh-rlhf", "longform")
    return kinds.index(kind), int(size.removesuffix("b"))


def _alike(one: ModelShape, other: ModelShape) -> bool:
    return one.parameters < _ALIKE * other.parameters and other.parameters < _ALIKE * one.parameters


def _size(shape: ModelShape) -> str:
    billions = shape.parameters / 1e9
    return f"{billions:.0f} B" if billions >= 2 else f"{shape.parameters / 1e6:,.0f} M"


def _or(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
