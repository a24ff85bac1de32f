"""Rotations, gates and shared inputs of a token: only what gives the same is replaced, and only inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from qlora_kernels import lora_layers, rotate
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama

from qlora_studio.config.run_config import LoraConfig
from qlora_studio.engine import fused_rotation
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.fused_gates import FusedGates
from qlora_studio.engine.fused_rotation import FusedRotation
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.shared_inputs import SharedInputs
from tests.engine.tiny import CPU, loaded, make_model

ONE_TOKEN = torch.tensor([[5]])
PLAIN, NF4 = Storage("none", False, torch.float32), Storage("nf4", True, torch.float32)


def model_of(family: str, folder: Path) -> PreTrainedModel:
    return loaded(load_base(str(make_model(folder / "model", family)), PLAIN, CPU)).causal_lm.eval()


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: Tensor = ONE_TOKEN) -> Tensor:
    positions = torch.arange(7, 7 + ids.shape[1]).expand(ids.shape)
    found: Tensor = model(input_ids=ids, position_ids=positions).logits
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_rotation_and_gates_of_a_family_are_fused_and_its_logits_stay(tmp_path: Path, family: str) -> None:
    model = model_of(family, tmp_path)
    plain, rotation, gates = logits_of(model), FusedRotation(model), FusedGates(model)
    with rotation.in_use(), gates.in_use():
        fused = logits_of(model)

    assert len(rotation) == 1
    assert len(gates) == model.config.num_hidden_layers
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ids", [[[5, 6, 7, 9, 4]], [[5, 6, 7], [9, 4, 3]]], ids=["one text", "two texts"])
def test_many_tokens_are_rotated_as_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: list[list[int]]
) -> None:
    model = model_of("llama", tmp_path)
    given, rotation = torch.tensor(ids), FusedRotation(model)
    plain = logits_of(model, given)
    shapes: list[torch.Size] = []
    monkeypatch.setattr(
        fused_rotation, "rotate", lambda *parts: (shapes.append(parts[0].shape), rotate(*parts))[1]
    )
    with rotation.in_use():
        fused = logits_of(model, given)

    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    assert {shape[0] for shape in shapes} == {given.numel()}


def test_a_rotation_of_neighbours_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_neighbours(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        def turned(x: Tensor) -> Tensor:
            return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

        query, key = (x * cosine + turned(x) * sine for x in (query, key))
        return query, key

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", of_neighbours)

    assert len(FusedRotation(model_of("llama", tmp_path))) == 0


def test_gates_of_another_function_are_left_alone(tmp_path: Path) -> None:
    assert len(FusedGates(model_of("gemma", tmp_path))) == 0


def test_all_is_as_the_model_wrote_it_outside_and_after_an_error(tmp_path: Path) -> None:
    model = model_of("llama", tmp_path)
    rotation, written = FusedRotation(model), modeling_llama.apply_rotary_pos_emb
    gates = FusedGates(model)
    with pytest.raises(KeyError), rotation.in_use(), gates.in_use():
        assert modeling_llama.apply_rotary_pos_emb is not written
        raise KeyError

    assert modeling_llama.apply_rotary_pos_emb is written
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.fixture
def adapted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdaptedModel:
    """As on a card: there products may share a kernel, here plain torch makes them."""
    monkeypatch.setattr(lora_layers, "writes_replies", lambda *_: not torch.is_grad_enabled())
    model = AdaptedModel(loaded(load_base(str(make_model(tmp_path / "model")), NF4, CPU)))
    model.add_new("random", LoraConfig(r=4), seed=0)
    for _, parameter in model.trained_parameters("random"):
        parameter.data.normal_(0, 0.1)
    model.causal_lm.eval()
    return model


@torch.no_grad()
@pytest.mark.parametrize("adapter", ["random", None])
def test_products_with_the_same_input_are_made_at_once(adapted: AdaptedModel, adapter: str | None) -> None:
    model = adapted.causal_lm
    adapted.use(adapter)
    shared = SharedInputs(model)
    with shared.watched():
        watched = logits_of(model)
    calls: list[int] = []

    def counted(x: Tensor, layers: Any) -> list[Tensor]:
        calls.append(len(layers))
        return products(x, layers)

    products = lora_layers.products_of
    with pytest.MonkeyPatch.context() as patch, shared.in_use():
        patch.setattr(lora_layers, "products_of", counted)
        found = logits_of(model)

    layers = model.config.num_hidden_layers
    assert [count for count in calls if count > 1] == [3, 2] * layers  # query, key and value; gate and up
    torch.testing.assert_close(found, watched, rtol=1e-4, atol=1e-5)
    assert not any("forward" in vars(module) for module in model.modules())
