from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from qlora_studio.errors import StudioError
from qlora_studio.models.shapes import known_config
from qlora_studio.protocol.events import LoadingProgress
from tests.engine.plain_stack import plain_base
from tests.engine.tiny import CPU, loaded, make_model, model_with_its_own_head

IDS = torch.arange(3, 20)[None]
STORAGES = {
    "nf4, double": Storage("nf4", True, torch.float32),
    "nf4": Storage("nf4", False, torch.float32),
    "fp4": Storage("fp4", True, torch.float32),
    "int8": Storage("int8", False, torch.float32),
    "16 bit": Storage("none", False, torch.float32),
    "nf4 in bfloat16": Storage("nf4", True, torch.bfloat16),
}


@pytest.mark.parametrize("name", STORAGES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_is_bit_for_bit_what_transformers_and_bitsandbytes_make_of_it(
    tmp_path: Path, family: str, name: str
) -> None:
    folder, storage = make_model(tmp_path / "model", family), STORAGES[name]

    base = loaded(load_base(str(folder), storage, CPU))

    reference = plain_base(folder, storage)
    reference.set_attn_implementation("sdpa")
    for module in base.causal_lm.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        torch.testing.assert_close(base.causal_lm(IDS).logits, reference(IDS).logits, atol=0, rtol=0)


def test_a_head_that_is_called_the_embedding_and_is_not_is_loaded_as_transformers_does(
    tmp_path: Path,
) -> None:
    folder, storage = model_with_its_own_head(tmp_path / "model"), STORAGES["16 bit"]
    model = loaded(load_base(str(folder), storage, CPU)).causal_lm
    assert not torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, reference(IDS).logits)


def test_loading_tells_how_far_it_is(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")

    told = list(load_base(str(folder), STORAGES["nf4"], CPU))

    assert told[-1] == LoadingProgress(done=21, total=21, words="Quantizing model")


def test_a_shape_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    model_type, values = known_config("smollm2-135m")
    few_layers = {**values, "num_hidden_layers": 2, "vocab_size": 1000}
    monkeypatch.setattr("qlora_studio.engine.loading.known_config", lambda name: (model_type, few_layers))

    base = loaded(load_base("shape:smollm2-135m", STORAGES["nf4, double"], CPU))

    assert base.parameters == 2 * 3_540_096 + 1000 * 576 + 576
    assert base.weight_bytes < base.parameters * 1.0  # most of them take half a byte
    assert torch.isfinite(base.causal_lm(IDS).logits).all()


def _changed(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    save_file(tensors, file, metadata={"format": "pt"})


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        (NORM, None),
        (NORM, torch.ones(63)),
        (NORM, torch.full((64,), torch.nan)),
        ("model.layers.1.self_attn.q_proj.weight", torch.full((64, 64), torch.inf)),
        ("model.layers.2.input_layernorm.weight", torch.ones(64)),
    ],
    ids=["missing", "misshapen", "NaN", "Inf", "left over"],
)
def test_a_tensor_that_is_not_as_it_must_be_is_named(  # S4
    tmp_path: Path, name: str, tensor: torch.Tensor | None
) -> None:
    folder = make_model(tmp_path / "model")
    _changed(folder, name, tensor)

    with pytest.raises(StudioError) as refused:
        loaded(load_base(str(folder), STORAGES["nf4"], CPU))

    assert name in refused.value.message
    assert str(folder) in refused.value.message
