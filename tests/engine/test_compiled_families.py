"""Families whose layers are built otherwise than Llama's learn compiled what they do uncompiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from qlora_kernels.lora_layers import FusedLoraLinear4bit, keep_in_one
from torch import Tensor, nn

from qlora_studio.config.run_config import LoraConfig
from qlora_studio.data.packing import collate
from qlora_studio.data.tokenized_row import RowsInMemory
from qlora_studio.engine.adapters import AdaptedModel, decoder_layers
from qlora_studio.engine.compiled_layers import compile_layers
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.learned_loss import learned_loss
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.packed_batch import on_device
from tests.engine.tiny import CPU, loaded, make_model, make_rows

BUILT_OTHERWISE: dict[str, dict[str, Any]] = {
    "gpt_neox": {},  # query, key and value are one weight, with a bias
    "phi": {},  # attention and the rest have the same input
    "phi3": {},  # gate and up are one weight too
    "qwen3": {"head_dim": 32},  # query is twice as long as its input, key and value aren't
    "olmo": {"clip_qkv": 0.5},  # clips query, key and value where they lie
}


@pytest.mark.parametrize("keeps", [False, True], ids=["codes", "kept"])
@pytest.mark.parametrize("family", BUILT_OTHERWISE)
def test_gradients_are_those_of_the_layers_as_they_are_written(
    tmp_path: Path, family: str, keeps: bool
) -> None:
    folder = make_model(tmp_path / family, family, **BUILT_OTHERWISE[family])
    adapted = AdaptedModel(loaded(load_base(str(folder), Storage("nf4", True, torch.float32), CPU)))
    adapted.add_new("tuned", LoraConfig(r=4), seed=0)
    for name, weight in adapted.trained_parameters("tuned"):
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    model = adapted.causal_lm.train()
    products = [layer for layer in model.modules() if isinstance(layer, FusedLoraLinear4bit)]
    for product in products:
        product.base_layer.keep(False)
    rows = RowsInMemory(make_rows(5))
    batch = on_device(collate([(0, 1, 2), (3, 4)], rows, pad_id=0), CPU.torch_device, keep_padding=False)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        learned_loss(model, batch).backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    wanted = gradients()
    torch._dynamo.reset()
    if keeps:
        keep_in_one(products)
    compile_layers(decoder_layers(model), recomputed=1, backend="aot_eager")
    found = gradients()

    compiled = [vars(layer)["forward"].__func__._compiled for layer in decoder_layers(model)]
    assert None not in compiled  # none was given up
    for ours, reference in zip(found, wanted, strict=True):
        assert (ours - reference).norm() <= 1e-5 * reference.norm()
    torch._dynamo.reset()
