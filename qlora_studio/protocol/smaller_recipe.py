"""The way on where no settings make a model fit: the paper's next smaller one, and a card that holds it."""

from __future__ import annotations

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.recipes import recipes
from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory.promise import GIB, promise
from qlora_studio.models.shapes import known_shape

CARDS = (24, 48, 80)  # GiB, as cards are sold

_SMALLEST = "A smaller model needs less; the bundled one ('sample') fits nearly everywhere."


def smaller_recipe(shape: ModelShape, *, device: str, room: int, kind: str = "guanaco") -> str:
    """A sentence naming the largest recipe of a kind that is for a smaller model and fits.

    shape: of the model that doesn't fit
    room:  bytes free
    kind:  a recipe's name without its size
    """
    of_kind = (recipe for recipe in reversed(recipes()) if recipe.key.rpartition("-")[0] == kind)
    for recipe in of_kind:
        smaller = known_shape(recipe.shape)
        if smaller.parameters >= shape.parameters:
            continue
        promised = promise(smaller, recipe.config, device=device, free_bytes=room, ways=False)
        if promised.verdict == "fits":
            return f"A smaller model fits: the recipe {recipe.key} needs {promised.total / GIB:.1f} GiB."
    return _SMALLEST


def card_that_holds(shape: ModelShape, config: RunConfig) -> int | None:
    """GiB of the smallest card that these settings go on, if tightly; None where there is none."""
    for gib in CARDS:
        if promise(shape, config, device="cuda", free_bytes=gib * GIB, ways=False).fits:
            return gib
    return None
