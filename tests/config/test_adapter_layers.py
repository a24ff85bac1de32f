"""Which layers get an adapter and how wide it is: what a person writes, held against a model's own names."""

from typing import Any

import pytest

from qlora_studio.config.adapter_layers import (
    layer_numbers,
    layers_text,
    own_value,
    place_of,
    problem_with_layers,
    ranks,
)
from qlora_studio.config.run_config import LoraConfig, RunConfig
from qlora_studio.config.toml_file import run_config_from, run_config_text, with_changes
from qlora_studio.errors import StudioError

LINEARS = ("self_attn.q_proj", "mlp.down_proj")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("all", range(6)), ("2-4", (2, 3, 4)), ("0, 4-5", (0, 4, 5)), ("3", (3,)), ("4-99", (4, 5))],
)
def test_numbers_and_ranges_count_from_zero_with_both_ends(text: str, numbers: Any) -> None:
    assert layer_numbers(text, 6) == frozenset(numbers)


@pytest.mark.parametrize("text", ["all", "2-4", "0, 4-5", "3", "1-2, 4"])
def test_the_text_of_numbers_is_what_was_written(text: str) -> None:
    assert layers_text(layer_numbers(text, 6), 6) == text


def test_a_whole_name_and_a_place_are_the_same_layer() -> None:
    assert place_of("model.layers.3.self_attn.q_proj") == place_of("3.self_attn.q_proj")
    assert place_of("transformer.h.11.attn.c_proj") == (11, "attn.c_proj")


def test_the_longest_name_wins_and_no_number_is_the_end_of_another() -> None:
    values = {"q_proj": 1, "self_attn.q_proj": 2, "3.self_attn.q_proj": 3}
    found = [own_value(values, f"model.layers.{n}.self_attn.q_proj", 9) for n in (3, 13, 4)]
    assert found == [3, 2, 2]
    assert own_value(values, "model.layers.3.mlp.up_q_proj", 9) == 9


def test_each_layer_is_counted_once_with_its_ranks() -> None:
    lora = LoraConfig(r=8, layers="1-4", ranks={"q_proj": 2, "3.mlp.down_proj": 64, "9.q_proj": 5})
    found = ranks(lora, LINEARS, 6)
    assert sorted((times, *of.values()) for times, of in found) == [(1, 2, 64), (3, 2, 8)]


@pytest.mark.parametrize(
    ("lora", "key", "words"),
    [
        (
            LoraConfig(layers="4-6"),
            "lora.layers",
            "names layer 6; this model's 6 layers have the numbers 0 to 5",
        ),
        (LoraConfig(ranks={"gate_proj": 4}), "lora.ranks", "names 'gate_proj', and no layer of that name"),
        (LoraConfig(layers="0-2", alphas={"3.self_attn.q_proj": 4}), "lora.alphas", "3.self_attn.q_proj"),
        (LoraConfig(target_modules=("q_proj",), ranks={"down_proj": 4}), "lora.ranks", "down_proj"),
        (LoraConfig(ranks={"proj": 4}), "lora.ranks", "such as self_attn.q_proj"),
    ],
)
def test_what_the_model_does_not_have_is_named(lora: LoraConfig, key: str, words: str) -> None:
    found, problem = problem_with_layers(lora, LINEARS, 6)
    assert found == key
    assert words in problem


def test_what_it_has_is_no_problem() -> None:
    lora = LoraConfig(layers="0, 5", ranks={"q_proj": 4, "5.mlp.down_proj": 2}, alphas={"mlp.down_proj": 1})
    assert problem_with_layers(lora, LINEARS, 6) == ("", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora.layers": "8-"}, "lora.layers is '8-'; it must be all, or numbers and ranges"),
        ({"lora.layers": "9-3"}, "lora.layers is '9-3'"),
        ({"lora.ranks": {"q_proj": 0}}, "lora.ranks.q_proj is 0; it must be between 1 and 512"),
        ({"lora.alphas.q_proj": 5000}, "lora.alphas.q_proj is 5,000; it must be between 1 and 1,024"),
        ({"lora.ranks": {"q_proj": "x"}}, "it must be a whole number"),
    ],
)
def test_what_cannot_stand_is_refused_by_its_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(StudioError) as refused:
        with_changes(RunConfig(), changes)
    assert words in refused.value.message


def test_a_settings_file_keeps_them() -> None:
    import tomllib

    config = with_changes(RunConfig(), {"lora.ranks.q_proj": 16, "lora.layers": "8-23"})
    assert run_config_from(tomllib.loads(run_config_text(config)), "there") == config
    assert (config.lora.ranks, config.lora.layers) == ({"q_proj": 16}, "8-23")
