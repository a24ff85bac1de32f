"""What a card dequantizes at once, and the room beside weights that stay so, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory import joined_weights
from qlora_studio.memory.joined_weights import numbers_at_once, room_of_kept
from qlora_studio.memory.setting import Setting
from qlora_studio.memory.suggestions import changed
from qlora_studio.models.shapes import known_shape

HIDDEN, INNER, LAYERS, TOKENS = 4096, 14336, 32, 512


def llama_8b(**changes: Any) -> Setting:
    settings = {"lora__r": 64} | changes
    config = changed(RunConfig(), {key.replace("__", "."): value for key, value in settings.items()})
    return Setting(known_shape("llama-3.1-8b"), config, "cuda", True, TOKENS, None)


def test_gate_and_up_are_dequantized_at_once_with_both_adapters_beside_and_a_copy_of_their_input() -> None:
    assert numbers_at_once(llama_8b()) == (2 * INNER + TOKENS) * (HIDDEN + 2 * 64)


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"lora__dropout": 0.1}, INNER * HIDDEN),  # the adapter's input is another then
        ({"lora__use_dora": True}, INNER * HIDDEN),
        ({"lora__target_modules": ("q_proj", "v_proj")}, INNER * HIDDEN),
        ({"lora__target_modules": ("down_proj",)}, (HIDDEN + 64) * INNER + TOKENS * (HIDDEN + 64)),
        ({"lora__target_modules": ("up_proj",)}, (INNER + TOKENS) * (HIDDEN + 64)),
        ({"training__keep_dequantized": True}, INNER * HIDDEN),  # of an evaluation
    ],
    ids=str,
)
def test_a_weight_without_others_or_an_adapter_is_dequantized_alone(
    changes: dict[str, Any], numbers: int
) -> None:
    assert numbers_at_once(llama_8b(**changes)) == numbers


def test_uncompiled_down_alone_has_its_adapter_below_and_a_copy_of_its_gradient() -> None:
    uncompiled = replace(llama_8b(), compiled=False)
    assert numbers_at_once(uncompiled) == (HIDDEN + 64) * INNER + TOKENS * (HIDDEN + 64)
    assert numbers_at_once(replace(llama_8b(lora__dropout=0.1), compiled=False)) == INNER * HIDDEN


def test_ranks_of_single_layers_make_the_room_that_they_need() -> None:
    one = {"0.mlp.up_proj": 128}
    assert numbers_at_once(llama_8b(lora__ranks=one)) == (2 * INNER + TOKENS) * (HIDDEN + 64 + 128)
    room = room_of_kept(llama_8b(lora__ranks=one)) - room_of_kept(llama_8b())
    assert room == 2 * INNER * 64


def test_room_lies_beside_gate_and_up_and_below_down() -> None:
    assert room_of_kept(llama_8b()) == LAYERS * (2 * INNER * 2 * 64 + 64 * INNER)
    assert room_of_kept(llama_8b(lora__target_modules=("q_proj",))) == 0


@pytest.mark.parametrize(("out", "inner"), [(2, 1), (199, 100), (200, 100), (100, 200)])
def test_what_is_wide_is_so_for_the_kernels(out: int, inner: int) -> None:
    from qlora_kernels.joined import is_wide

    assert is_wide(out, inner) == (out >= joined_weights.WIDE * inner)
