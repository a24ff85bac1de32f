"""An adapter is what its tensors are; its own words are only compared with them (S5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from qlora_studio.errors import StudioError
from qlora_studio.models.adapter import check_adapter, clean_adapter_config

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")
SAID = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none"}


class Adapter:
    """An adapter folder for the tiny Llama: rank 4 on two layers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.tensors: dict[str, np.ndarray] = {}
        for module, (out, inner) in zip(MODULES, ((32, 32), (32, 48)), strict=True):
            self.tensors[f"base_model.model.{module}.lora_A.weight"] = np.ones((4, inner), np.float32)
            self.tensors[f"base_model.model.{module}.lora_B.weight"] = np.zeros((out, 4), np.float32)
        self.said: dict[str, Any] = dict(SAID)

    def write(self) -> Adapter:
        save_file(self.tensors, self.path / "adapter_model.safetensors")
        (self.path / "adapter_config.json").write_text(json.dumps(self.said))
        return self

    def name(self, module: int, part: str) -> str:
        return f"base_model.model.{MODULES[module]}.{part}"


@pytest.fixture
def adapter(tmp_path) -> Adapter:
    return Adapter(tmp_path / "adapter").write()


def refusal(adapter: Adapter, base: Path) -> str:
    with pytest.raises(StudioError) as caught:
        check_adapter(adapter.path, str(base))
    assert str(adapter.path) in caught.value.message
    return caught.value.message


def test_a_sound_adapter_is_rebuilt_from_its_tensors(adapter, llama):
    adapter.said |= {"target_modules": ".*", "base_model_name_or_path": "evil/model", "use_rslora": True}
    adapter.write()

    checked = check_adapter(adapter.path, str(llama.path))

    assert (checked.r, checked.alpha, checked.rslora, checked.dora) == (4, 8, True, False)
    assert checked.target_modules == MODULES
    assert checked.warnings == ("It adapts 2 of the 14 linear layers.",)


def test_the_engines_config_holds_exact_names_and_nothing_of_theirs(adapter, llama):
    adapter.said |= {
        "target_modules": ".*",
        "auto_mapping": {"parent_library": "evil"},
        "revision": "x",
        "lora_dropout": 0.5,
    }
    adapter.write()
    assert clean_adapter_config(adapter.path, str(llama.path)) == {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": list(MODULES),
        "lora_dropout": 0.0,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }


# fault 28: one field each
@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("r", 8),
        ("r", None),
        ("r", "4"),
        ("lora_alpha", 0),
        ("lora_alpha", -1),
        ("lora_alpha", float(10**9)),
        ("lora_alpha", True),
        ("lora_alpha", None),
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("task_type", "SEQ_CLS"),
        ("bias", "all"),
        ("use_rslora", "yes"),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 8}),
        ("rank_pattern", {"q_pro.": 4}),
        ("rank_pattern", ["q_proj"]),
        ("alpha_pattern", {"(.*)": 8}),
        ("alpha_pattern", {"q_proj": float("nan")}),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 2]]),
        ("target_parameters", ["x"]),
        ("trainable_token_indices", [1]),
        ("lora_bias", True),
    ],
)
def test_a_field_that_does_not_agree_is_named(adapter, llama, name, value):
    adapter.said[name] = value
    adapter.write()
    message = refusal(adapter, llama.path)
    assert "adapter_config.json" in message
    assert name.removesuffix("_pattern") in message


@pytest.mark.fault(28)
@pytest.mark.parametrize("rank", [0, 1025])
def test_a_rank_out_of_bounds_is_refused(adapter, llama, rank):
    for index, (out, inner) in enumerate(((32, 32), (32, 48))):
        adapter.tensors[adapter.name(index, "lora_A.weight")] = np.zeros((rank, inner), np.float32)
        adapter.tensors[adapter.name(index, "lora_B.weight")] = np.zeros((out, rank), np.float32)
    adapter.write()
    assert f"its rank is {rank:,}" in refusal(adapter, llama.path)


def test_the_two_halves_of_a_layer_have_one_rank(adapter, llama):
    adapter.tensors[adapter.name(1, "lora_A.weight")] = np.zeros((8, 48), np.float32)
    adapter.write()
    assert "down_proj.lora_B.weight is 32 x 4; rank 8 on this base makes it 32 x 8" in refusal(
        adapter, llama.path
    )


def test_a_layer_of_another_rank_must_be_told(adapter, llama):
    adapter.tensors[adapter.name(1, "lora_A.weight")] = np.zeros((8, 48), np.float32)
    adapter.tensors[adapter.name(1, "lora_B.weight")] = np.zeros((32, 8), np.float32)
    adapter.write()
    assert f"r is 4; the tensors of {MODULES[1]} have rank 8" in refusal(adapter, llama.path)


@pytest.mark.fault(28)
def test_an_adapter_of_a_larger_base_is_refused(adapter, llama):
    llama.write_config(hidden_size=64)
    assert "q_proj.lora_A.weight is 4 x 32; rank 4 on this base makes it 4 x 64" in refusal(
        adapter, llama.path
    )


def test_an_adapter_of_a_deeper_base_is_refused(adapter, llama):
    llama.write_config(num_hidden_layers=1)
    assert "layers.1.mlp.down_proj" in refusal(adapter, llama.path)


def test_half_a_pair_is_refused(adapter, llama):
    del adapter.tensors[adapter.name(0, "lora_B.weight")]
    adapter.write()
    assert f"tensor {adapter.name(0, 'lora_B.weight')} is missing" in refusal(adapter, llama.path)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.weight",
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "evil",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
        "base_model.model.model.layers.0.self_attn.evil.lora_A.weight",
    ],
)
def test_a_tensor_that_is_no_part_of_a_lora_is_named(adapter, llama, name):
    adapter.tensors[name] = np.zeros((4, 32), np.float32)
    adapter.write()
    assert name in refusal(adapter, llama.path)


@pytest.mark.fault(28)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_one_bad_number_is_found_in_every_type(adapter, llama, bad, kind):
    name = adapter.name(1, "lora_B.weight")
    numbers = np.zeros((32, 4), np.float32)
    numbers[31, 3] = bad
    _write_as(adapter, {**adapter.tensors, name: numbers}, kind)
    assert f"tensor {name} holds numbers that are not finite" in refusal(adapter, llama.path)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_the_largest_finite_numbers_are_no_mistake(adapter, llama, kind):
    largest = np.full((32, 4), {"F16": 65504.0}.get(kind, np.float32(3.3895314e38)), np.float32)
    _write_as(adapter, {**adapter.tensors, adapter.name(1, "lora_B.weight"): largest}, kind)
    assert check_adapter(adapter.path, str(llama.path)).r == 4


def _write_as(adapter: Adapter, tensors: dict[str, np.ndarray], kind: str) -> None:
    """numpy has no bfloat16: its bits are the upper half of a float32's."""
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        if kind == "BF16":
            bits = (tensor.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            bits = tensor.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes()
        header[name] = {
            "dtype": kind,
            "shape": tensor.shape,
            "data_offsets": [len(data), len(data) + len(bits)],
        }
        data += bits
    text = json.dumps(header).encode()
    path = adapter.path / "adapter_model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.fault(23)
def test_an_adapter_in_a_pickle_is_refused_and_not_opened(adapter, llama):  # S1
    (adapter.path / "adapter_model.safetensors").unlink()
    (adapter.path / "adapter_model.bin").symlink_to("/dev/zero")
    assert "Only safetensors files are read" in refusal(adapter, llama.path)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_missing_file_is_named(adapter, llama, name):
    (adapter.path / name).unlink()
    assert f"{name} is missing" in refusal(adapter, llama.path)


def test_weights_cut_short_are_named(adapter, llama):
    weights = adapter.path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "cut short" in refusal(adapter, llama.path)


@pytest.mark.fault(22)
def test_code_beside_an_adapter_is_told(adapter, llama):
    (adapter.path / "evil.py").write_text("raise SystemExit")
    assert (
        "This adapter comes with its own code. It was not run."
        in check_adapter(adapter.path, str(llama.path)).warnings
    )


PATTERNS = {"rank_pattern": {"down_proj": 5, "layers.1.mlp.up_proj": 2}, "alpha_pattern": {"q_proj": 9}}


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, PATTERNS], ids=["plain", "dora", "patterns"])
def test_what_peft_saves_is_read_and_loads_back_into_peft_unchanged(llama, tmp_path, options):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(**llama.config))
    trained = get_peft_model(
        base,
        LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **options),
    )
    trained.save_pretrained(tmp_path / "adapter")

    checked = check_adapter(tmp_path / "adapter", str(llama.path))
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    fresh = AutoModelForCausalLM.from_config(AutoConfig.for_model(**llama.config))
    rebuilt = get_peft_model(fresh, LoraConfig(**checked.peft_config()))
    rebuilt.save_pretrained(tmp_path / "again")

    saved, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "again"))
    assert isinstance(rebuilt, PeftModel)
    assert {name: tensor.shape for name, tensor in saved.items()} == {
        name: tensor.shape for name, tensor in again.items()
    }
    assert checked.parameters == sum(torch.numel(tensor) for tensor in saved.values())
    assert len(checked.target_modules) == 14
    assert scalings(rebuilt) == scalings(trained)


def scalings(model):
    """Of each layer that an adapter is on."""
    from peft.tuners.lora import LoraLayer

    return {name: layer.scaling for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
