"""Single parts against counts made by hand or by the libraries themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import LoraConfig, RunConfig
from qlora_studio.memory import logits
from qlora_studio.memory.parts import Parts, adapter_parameters, parts
from qlora_studio.memory.phases import by_phase
from qlora_studio.memory.setting import Setting
from qlora_studio.memory.suggestions import changed
from qlora_studio.models.shapes import known_shape

ONE_LINEAR = ModelShape(
    family="llama",
    hidden_size=1024,
    intermediate_size=1024,
    layers=2,
    heads=8,
    kv_heads=8,
    head_dim=128,
    vocab_size=100,
    max_position_embeddings=64,
    tied=True,
    linears=(("self_attn.q_proj", 1024, 1024),),
    other_parameters_a_layer=10,
    parameters=2 * (1024 * 1024 + 10) + 100 * 1024,
)


def weights(**model: object) -> int:
    config = changed(RunConfig(), {f"model.{name}": value for name, value in model.items()})
    setting = Setting(ONE_LINEAR, config, device="cuda", compiled=False, tokens=64, room=None)
    return parts(setting, 0).weights - 2 * (20 + 100 * 1024)  # without what stays in 16 bit


def test_nf4_takes_half_a_byte_a_weight_and_its_scales():
    blocks = 1024 * 1024 // 64
    assert weights(double_quant=False) == 2 * (1024 * 1024 // 2 + 4 * blocks)
    assert weights() == 2 * (1024 * 1024 // 2 + blocks + 4 * blocks // 256)


def test_double_quantization_saves_0_373_bit_a_weight():
    saved = weights(double_quant=False) - weights(double_quant=True)
    assert 8 * saved / (2 * 1024 * 1024) == pytest.approx(0.373, abs=0.001)


def test_int8_takes_a_byte_a_weight_and_16_bit_two():
    assert weights(quantization="int8") == pytest.approx(2 * 1024 * 1024, rel=0.01)
    assert weights(quantization="none") == 2 * 2 * 1024 * 1024


def test_an_adapter_has_a_and_b_for_each_target_and_lengths_with_dora():
    assert adapter_parameters(ONE_LINEAR, LoraConfig(r=8)) == 2 * 8 * 2048
    assert adapter_parameters(ONE_LINEAR, LoraConfig(r=8, use_dora=True)) == 2 * (8 * 2048 + 1024)
    assert adapter_parameters(ONE_LINEAR, LoraConfig(r=8, target_modules=("q_proj",))) == 2 * 8 * 2048
    assert adapter_parameters(ONE_LINEAR, LoraConfig(r=8, target_modules=("k_proj",))) == 0


def test_as_many_logits_exist_at_once_as_the_kernels_make():
    from qlora_kernels import cross_entropy

    made = {"cuda": cross_entropy._CHUNK_LOGITS_CARD, "cpu": cross_entropy._CHUNK_LOGITS_CPU}
    assert made == logits.USUAL


@pytest.mark.parametrize(
    ("recomputed", "changes", "made"),
    [
        (0, {}, 4 * 2**25 + 2 * (2**27 - 2**25)),
        (0, {"model__compute_dtype": "float32"}, 4 * 2**27),
        (1, {}, 4 * 2**25),
        (32, {}, 4 * 2**25),
        (0, {"training__finetuning": "full", "model__quantization": "none"}, 4 * 2**25),  # the head learns
    ],
)
def test_where_no_layer_is_recomputed_a_card_makes_more_logits_at_once(recomputed, changes, made):
    assert on_card(recomputed, **changes).logits == made


def test_no_more_logits_are_made_than_there_are():
    setting = Setting(
        known_shape("llama-3.1-8b"), RunConfig(), device="cuda", compiled=True, tokens=512, room=None
    )
    assert parts(setting, 0).logits == 4 * 2**25 + 2 * (512 * 128256 - 2**25)
    assert parts(replace(setting, tokens=64), 0).logits == 4 * 64 * 128256
    assert parts(replace(setting, device="cpu"), 0).logits == 12 * 2**23


def test_an_evaluation_makes_as_many_logits_as_usual():
    setting = Setting(
        known_shape("llama-3.1-8b"), RunConfig(), device="cuda", compiled=True, tokens=8192, room=None
    )
    assert by_phase(setting, parts(setting, 0))["evaluation"].logits == 4 * 2**25


@pytest.mark.parametrize(
    ("dtype", "stored", "beside"),
    [("float32", 4, 4), ("bfloat16", 2, 8), ("auto", 2, 8)],  # auto: the one that takes more
)
def test_all_weights_have_gradients_and_two_moments(dtype, stored, beside):
    changes = {"training.finetuning": "full", "model.quantization": "none", "model.compute_dtype": dtype}
    config = changed(RunConfig(), changes)
    found = parts(Setting(ONE_LINEAR, config, device="cpu", compiled=False, tokens=64, room=None), 0)
    count = ONE_LINEAR.parameters
    assert (found.weights, found.adapter, found.optimizer) == (stored * count, beside * count, 8 * count)


def on_card(recomputed: int, **changes: object) -> Parts:
    """Of a compiled Llama 3.1 8B, 8,192 tokens."""
    config = changed(RunConfig(), {key.replace("__", "."): value for key, value in changes.items()})
    shape = known_shape("llama-3.1-8b")
    return parts(Setting(shape, config, device="cuda", compiled=True, tokens=8192, room=None), recomputed)


def test_the_first_kept_layers_have_gone_once_one_is_recomputed():
    """So the peak is the larger of two: with half of the layers kept, what the backward pass begins with."""
    a_layer = (2 * 4096 + 2 * 4096 + 2 * 1024 + 2 * 14336 + 7 * 64) * 8192 * 2  # as its graph keeps it
    saved = on_card(8).activations - on_card(16).activations
    assert saved == pytest.approx(8 * (a_layer - 4096 * 8192 * 2), rel=0.001)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_gradients_that_are_gathered_in_one_tensor_are_held_twice_for_a_moment(micro_batches):
    few_tokens = Setting(
        known_shape("llama-3.1-8b"),
        changed(RunConfig(), {"lora.r": 512, "training.gradient_accumulation": micro_batches}),
        device="cuda",
        compiled=True,
        tokens=64,
        room=None,
    )
    gradients = 4 * adapter_parameters(few_tokens.shape, few_tokens.config.lora)
    held = parts(few_tokens, 32)
    assert held.activations + held.logits == gradients
    small = changed(few_tokens.config, {"training.optimizer": "paged_adamw_8bit"})
    eight_bit = parts(replace(few_tokens, config=small), 32)
    assert eight_bit.activations < gradients / 4
    assert eight_bit.other < held.other


def test_the_last_products_input_flows_where_its_adapter_learns_from_it():
    of_two = on_card(0, lora__target_modules=("q_proj", "v_proj"), lora__r=1)
    of_all = on_card(0, lora__r=1)
    low_rank = 32 * 5 * 8192 * 2
    flows = of_all.activations - of_two.activations - low_rank
    assert flows == pytest.approx(14336 * 8192 * 2, rel=0.001)
