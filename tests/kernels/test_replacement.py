"""The fast path against plain peft and bitsandbytes on the same tiny model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from qlora_kernels import disable_cpu_repacking, replace_forwards
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

IDS = torch.arange(48).view(2, 24) % 96


def tiny_llama(folder, dtype=torch.float32, quant_type="nf4"):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return LlamaForCausalLM.from_pretrained(folder, quantization_config=quantization, dtype=dtype)


def with_adapter(model, **settings):
    torch.manual_seed(1)
    settings = {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": "all-linear",
        "init_lora_weights": False,
    } | settings
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    disable_cpu_repacking(model)
    return model


def gradients(model: nn.Module, seed: int = 2) -> dict[str, Tensor]:
    model.train()
    model.zero_grad()
    torch.manual_seed(seed)
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative_error(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(((ours[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs)


@pytest.fixture
def plain(tmp_path) -> Callable[..., nn.Module]:
    return lambda dtype=torch.float32, quant_type="nf4", **settings: with_adapter(
        tiny_llama(tmp_path, dtype, quant_type), **settings
    )


@pytest.mark.parametrize("keep_dequantized", [True, False])
@pytest.mark.parametrize("settings", [{}, {"lora_dropout": 0.3}, {"use_rslora": True}])
def test_gradients_are_those_of_plain_peft_and_bitsandbytes(plain, settings, keep_dequantized):
    model = plain(**settings)
    theirs = gradients(model)

    report = replace_forwards(model, keep_dequantized=keep_dequantized)

    assert (report.replaced, report.fallbacks) == (14, {})
    assert relative_error(gradients(model), theirs) < 1e-5  # fp32 sums in another order


def test_keeping_the_dequantized_weight_changes_no_bit(plain):
    model = plain()
    replace_forwards(model, keep_dequantized=True)
    kept = gradients(model)
    replace_forwards(model, keep_dequantized=False)
    again = gradients(model)
    assert all(torch.equal(kept[name], again[name]) for name in kept)
