"""Norms in one kernel: only those that a trial finds to be the same, and only while they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.fused_norms import FusedNorms
from qlora_studio.engine.loading import load_base
from tests.engine.tiny import CPU, loaded, make_model

IDS = torch.tensor([[3, 14, 15, 9, 2, 6]])


def model_of(family: str, folder: Path) -> PreTrainedModel:
    """With norms that multiply by something else than 1."""
    storage = Storage("none", False, torch.float32)
    model = loaded(load_base(str(make_model(folder / "model", family)), storage, CPU)).causal_lm.eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data.mul_(1 + torch.rand_like(parameter) * ("norm" in name))
    return model


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> Tensor:
    found: Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_all_norms_of_a_family_are_fused_and_its_logits_stay(tmp_path: Path, family: str) -> None:
    model = model_of(family, tmp_path)
    norms, plain = FusedNorms(model), logits_of(model)
    with norms.in_use():
        fused = logits_of(model)

    assert len(norms) == sum(type(module).__name__.endswith("RMSNorm") for module in model.modules())
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_norm_that_multiplies_by_1_more_than_its_weight_is_left_alone(dtype: torch.dtype) -> None:
    same, other = LlamaRMSNorm(64).to(dtype), GemmaRMSNorm(64).to(dtype)
    for norm in (same, other):
        norm.weight.data = torch.linspace(0.1, 3, 64).to(dtype)

    assert len(FusedNorms(nn.ModuleList([same]))) == 1
    assert len(FusedNorms(nn.ModuleList([other]))) == 0


def test_a_norm_computes_as_it_is_written_outside_and_after_an_error() -> None:
    norm = LlamaRMSNorm(8)
    norms = FusedNorms(nn.ModuleList([norm]))
    with pytest.raises(KeyError), norms.in_use():
        assert "forward" in vars(norm)
        raise KeyError

    assert "forward" not in vars(norm)


def test_a_norm_that_another_library_has_replaced_is_left_alone() -> None:
    norm = LlamaRMSNorm(8)
    norm.forward = lambda hidden_states: hidden_states

    assert len(FusedNorms(nn.ModuleList([norm]))) == 0


def test_an_input_of_another_dtype_comes_out_as_the_model_wrote_it() -> None:
    norm, x = LlamaRMSNorm(8).to(torch.bfloat16), torch.rand(1, 2, 8)
    with torch.no_grad(), FusedNorms(nn.ModuleList([norm])).in_use():
        found = norm(x)

    torch.testing.assert_close(found, LlamaRMSNorm.forward(norm, x), rtol=0, atol=0)
