"""The way on from a model that is too large: a smaller recipe that fits, and a card that holds it."""

from __future__ import annotations

import pytest

from qlora_studio.config.recipes import recipe_named
from qlora_studio.memory.promise import GIB, promise
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol.smaller_recipe import card_that_holds, smaller_recipe

LLAMA_65B = known_shape("llama-65b")


@pytest.mark.parametrize("kind", ["guanaco", "instructions", "hh-rlhf", "longform"])
@pytest.mark.parametrize(("room_gib", "size"), [(23, "13b"), (40, "33b")])
def test_the_largest_smaller_recipe_that_fits_is_named(room_gib: int, size: str, kind: str) -> None:
    said = smaller_recipe(LLAMA_65B, device="cpu", room=room_gib * GIB, kind=kind)

    recipe = recipe_named(f"{kind}-{size}")
    needed = promise(known_shape(recipe.shape), recipe.config, device="cpu", free_bytes=room_gib * GIB)
    assert needed.verdict == "fits"
    assert said == f"A smaller model fits: the recipe {kind}-{size} needs {needed.total / GIB:.1f} GiB."


@pytest.mark.parametrize(("shape", "room_gib"), [("llama-65b", 3), ("llama-7b", 1000)])
def test_where_none_is_smaller_or_fits_the_bundled_model_is_named(shape: str, room_gib: int) -> None:
    assert "'sample'" in smaller_recipe(known_shape(shape), device="cpu", room=room_gib * GIB)


@pytest.mark.parametrize(("key", "gib"), [("guanaco-7b", 24), ("guanaco-65b", 48)])
def test_the_smallest_card_that_it_goes_on_is_known(key: str, gib: int) -> None:
    recipe = recipe_named(key)
    assert card_that_holds(known_shape(recipe.shape), recipe.config) == gib
