"""The shapes of known models give as many parameters as those models have."""

from __future__ import annotations

import json

import pytest

from qlora_studio.config.places import resources_folder

SHAPES = resources_folder() / "shapes"

PARAMETERS = {  # as counted in the published weights, once where embedding and head are tied
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "mistral-7b": 7_248_023_552,
    "gemma-2-2b": 2_614_341_888,
    "phi-3-mini": 3_821_079_552,
    "smollm2-135m": 134_515_008,
}


def test_every_bundled_shape_is_counted_here() -> None:
    assert {file.stem for file in SHAPES.glob("*.json")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_shape_holds_single_values_only(name: str) -> None:
    shape = json.loads((SHAPES / f"{name}.json").read_text("utf-8"))

    assert all(isinstance(value, str | int | float | bool) for value in shape.values())


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_shape_gives_the_parameters_of_the_published_model(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = json.loads((SHAPES / f"{name}.json").read_text("utf-8"))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))

    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS[name]
