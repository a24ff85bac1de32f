"""Each recipe of the paper starts on a small model of the same family."""

from __future__ import annotations

import msgspec
import pytest

from qlora_studio.config.recipes import recipe_named, recipes
from qlora_studio.protocol.events import RunFinished, StepFinished
from tests.engine.tiny import events_of, make_model, make_run, of_kind

AS_THEY_ARE = ("data", "lora", "training", "checkpoints")  # of the recipe's sections


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("recipes") / "model")


@pytest.mark.parametrize("key", [recipe.key for recipe in recipes()])
def test_a_recipe_trains_a_small_llama(tmp_path, model, key):
    settings = msgspec.to_builtins(recipe_named(key).config)
    changes = {
        f"{section}__{name}": value for section in AS_THEY_ARE for name, value in settings[section].items()
    }
    shorter = {"training__steps": 1, "training__recompute": "none", "checkpoints__evaluate_every_steps": 1}
    events = events_of(make_run(tmp_path, model, **(changes | shorter)))
    assert of_kind(events, StepFinished)[0].loss > 0
    assert of_kind(events, RunFinished)[0].state == "finished"
