"""The paper's recipes: its table 9 to the letter, and what they say of another model or other data."""

from __future__ import annotations

import pytest

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.recipes import recipe_named, recipes
from qlora_studio.errors import StudioError
from qlora_studio.models.shapes import known_shape

# QLoRA, arXiv:2305.14314, table 9: batch size, learning rate, steps, source and target length together.
TABLE_9 = {
    "instructions-7b": (16, 2e-4, 10_000, 384 + 128),
    "guanaco-7b": (16, 2e-4, 1_875, 512),
    "hh-rlhf-7b": (16, 2e-4, 10_000, 768),
    "longform-7b": (16, 2e-4, 4_000, 512 + 1_024),
    "instructions-13b": (16, 2e-4, 10_000, 384 + 128),
    "guanaco-13b": (16, 2e-4, 1_875, 512),
    "hh-rlhf-13b": (16, 2e-4, 10_000, 768),
    "longform-13b": (16, 2e-4, 4_000, 512 + 1_024),
    "instructions-33b": (32, 1e-4, 5_000, 384 + 128),
    "guanaco-33b": (16, 1e-4, 1_875, 512),
    "hh-rlhf-33b": (32, 1e-4, 5_000, 768),
    "longform-33b": (32, 1e-4, 2_343, 512 + 1_024),
    "instructions-65b": (64, 1e-4, 2_500, 384 + 128),
    "guanaco-65b": (16, 1e-4, 1_875, 512),
    "hh-rlhf-65b": (64, 1e-4, 2_500, 768),
    "longform-65b": (32, 1e-4, 2_343, 512 + 1_024),
}


def test_every_row_of_the_table_is_a_recipe():
    assert {recipe.key for recipe in recipes()} == set(TABLE_9)


@pytest.mark.parametrize("key", TABLE_9)
def test_a_recipe_is_the_tables_row(key):
    config = recipe_named(key).config
    training = config.training
    rows = training.batch_size * training.gradient_accumulation
    assert (rows, training.learning_rate, training.steps, config.data.seq_len) == TABLE_9[key]
    assert not config.data.packing


@pytest.mark.parametrize("key", TABLE_9)
def test_what_the_paper_has_for_all_of_them(key):
    config = recipe_named(key).config
    lora, training, model = config.lora, config.training, config.model
    small = key.endswith(("-7b", "-13b"))
    assert (lora.r, lora.alpha, lora.target_modules) == (64, 16, "all-linear")
    assert lora.dropout == (0.1 if small else 0.05)
    assert (training.schedule, training.optimizer) == ("constant", "paged_adamw_32bit")
    assert (training.max_grad_norm, training.weight_decay) == (0.3, 0.0)
    assert (model.quantization, model.double_quant) == ("nf4", True)


def test_guanaco_learns_whole_conversations_and_instructions_their_answers():
    assert recipe_named("guanaco-7b").config.data.train_on == "everything"
    assert recipe_named("instructions-7b").config.data.train_on == "answers"


def test_the_smallest_model_stands_first():
    assert [recipe.key for recipe in recipes()][:4] == [
        "guanaco-7b", "guanaco-13b", "guanaco-33b", "guanaco-65b",
    ]  # fmt: skip


def test_a_recipe_that_is_not_there_names_those_that_are():
    with pytest.raises(StudioError, match="no recipe 'guanaco'") as refused:
        recipe_named("guanaco")
    assert "guanaco-7b, guanaco-13b" in refused.value.hint


@pytest.mark.parametrize(
    ("said", "meant"),
    [("guanaco-70b", "guanaco-7b"), ("Guanaco65b", "guanaco-65b"), ("hh-rhlf-13b", "hh-rlhf-13b")],
)
def test_a_name_that_is_nearly_one_is_answered_with_it(said, meant):
    with pytest.raises(StudioError) as refused:
        recipe_named(said)
    assert refused.value.hint.startswith(f"Did you mean {meant}? Recipes: ")


@pytest.mark.parametrize("said", ["alpaca-7b", "vicuna", ""])
def test_a_name_like_none_of_them_is_answered_with_no_guess(said):
    with pytest.raises(StudioError) as refused:
        recipe_named(said)
    assert refused.value.hint.startswith("Recipes: guanaco-7b")


def doubts(key: str, shape: ModelShape | None, data_format: str = "") -> list[str]:
    recipe = recipe_named(key)
    return recipe.doubts(shape, known_shape(recipe.shape), data_format)


def test_its_own_model_and_data_are_no_doubt():
    assert doubts("guanaco-7b", known_shape("llama-7b"), "oasst") == []
    assert doubts("instructions-7b", known_shape("llama-3.1-8b"), "flan") == []
    assert doubts("guanaco-7b", None) == []


def test_another_size_family_or_kind_of_data_is_said():
    assert doubts("guanaco-65b", known_shape("smollm2-135m")) == [
        "Guanaco 65B was made for llama of 65 B parameters; this model is llama of 135 M. "
        "Smaller models take a larger learning rate."
    ]
    assert "this model is qwen2 of 8 B" in doubts("guanaco-7b", known_shape("qwen2.5-7b"))[0]
    assert doubts("guanaco-7b", known_shape("llama-7b"), "alpaca") == [
        "Guanaco 7B was made for oasst; this data is alpaca."
    ]
