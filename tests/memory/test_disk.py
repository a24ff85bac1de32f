"""Room that a run needs on the disk (R9)."""

from __future__ import annotations

import pytest

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory.disk import adapter_bytes, checkpoint_bytes, merged_bytes, run_bytes
from qlora_studio.memory.suggestions import changed

SHAPE = ModelShape(
    family="llama",
    hidden_size=4096,
    intermediate_size=4096,
    layers=100,
    heads=32,
    kv_heads=32,
    head_dim=128,
    vocab_size=32000,
    max_position_embeddings=2048,
    tied=False,
    linears=(("self_attn.q_proj", 4096, 4096),),
    other_parameters_a_layer=0,
    parameters=2_000_000_000,
)
TRAINED = 100 * 64 * 8192


def test_a_checkpoint_is_the_adapter_and_two_moments():
    assert checkpoint_bytes(SHAPE, RunConfig(), "cuda") == pytest.approx(12 * TRAINED, rel=0.01)
    assert adapter_bytes(SHAPE, RunConfig()) == pytest.approx(4 * TRAINED, rel=0.25)


def test_an_8_bit_optimizer_makes_checkpoints_smaller_on_a_card_alone():
    config = changed(RunConfig(), {"training.optimizer": "paged_adamw_8bit"})
    assert checkpoint_bytes(SHAPE, config, "cuda") == pytest.approx(6 * TRAINED, rel=0.02)
    assert checkpoint_bytes(SHAPE, config, "cpu") == checkpoint_bytes(SHAPE, RunConfig(), "cpu")


def test_a_run_has_room_for_those_kept_the_best_one_more_and_2_gb():  # R9
    three_more = changed(RunConfig(), {"checkpoints.keep": 5})
    one = checkpoint_bytes(SHAPE, RunConfig(), "cuda")
    assert run_bytes(SHAPE, RunConfig(), "cuda") == 4 * one + adapter_bytes(SHAPE, RunConfig()) + 2 * 10**9
    assert run_bytes(SHAPE, three_more, "cuda") - run_bytes(SHAPE, RunConfig(), "cuda") == 3 * one


def test_a_merged_model_is_16_bit_unless_said_otherwise():
    assert merged_bytes(SHAPE) == pytest.approx(4e9, rel=0.02)
    assert merged_bytes(SHAPE, number_bytes=4) == pytest.approx(8e9, rel=0.02)


def test_of_all_weights_a_checkpoint_has_12_bytes_for_each_and_the_end_leaves_16_bit():
    config = changed(RunConfig(), {"training.finetuning": "full", "model.quantization": "none"})
    one = checkpoint_bytes(SHAPE, config, "cpu")
    assert one == pytest.approx(12 * SHAPE.parameters, rel=0.01)
    assert run_bytes(SHAPE, config, "cpu") == 4 * one + merged_bytes(SHAPE) + 2 * 10**9
