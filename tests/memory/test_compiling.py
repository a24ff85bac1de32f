"""Which compiled layers are played as CUDA graphs, and keep their weights dequantized."""

from typing import Any

import msgspec
import pytest

from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.memory.compiling import not_graphed_reason, not_kept_dequantized_reason
from qlora_studio.models.shapes import known_config, known_shape
from qlora_studio.models.tensor_plan import tensor_plan

SHAPE = known_shape("llama-3.1-8b")


def reason(changes: dict[str, Any] | None = None, shape: Any = SHAPE, trained: int = 2**20) -> str:
    return not_graphed_reason(shape, with_changes(RunConfig(), changes or {}), trained) or ""


def test_they_are_where_nothing_stands_against_it() -> None:
    assert reason() == ""


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("phi3", "resid_pdrop"),
        ("phi", "embd_pdrop"),
        ("stablelm", "hidden_dropout"),
        ("gpt_neox", "hidden_dropout"),
    ],
)
def test_models_that_drop_hidden_states_do(model_type: str, name: str) -> None:
    _, values = known_config("phi-3-mini" if model_type == "phi3" else "llama-3.1-8b")
    values |= {"qk_layernorm": False, "use_parallel_residual": True, "use_qkv_bias": False}
    quiet, drops = (tensor_plan(model_type, values | {name: share}).shape() for share in (0.0, 0.1))
    assert not reason(shape=quiet)
    assert drops.drops
    assert "dropout" in reason(shape=drops)


def test_settings_and_sizes_may() -> None:
    assert "dropout" in reason({"lora.dropout": 0.1})
    assert "RAM" in reason({"training.recompute": "host"})
    assert reason(trained=2**28) == ""
    assert reason(trained=2**28 + 2**26) == "1.2 GiB of gradients would stay"


@pytest.mark.parametrize("rotation", ["dynamic", "longrope"])
@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("by_kind", [False, True])
def test_rotations_that_look_at_the_positions_do(rotation: str, place: str, by_kind: bool) -> None:
    model_type, values = known_config("llama-3.1-8b")
    kind = {"rope_type": rotation, "factor": 2.0}
    values = {name: value for name, value in values.items() if not name.startswith("rope_")}
    said = {"full_attention": kind, "sliding_attention": {"rope_type": "default"}} if by_kind else kind
    shape = tensor_plan(model_type, values | {place: said}).shape()
    assert rotation in shape.rotations
    assert reason(shape=shape) == f"{rotation} rotation looks at the positions"
    assert msgspec.json.decode(msgspec.json.encode(shape), type=type(shape)) == shape


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"model.quantization": "none"}, "only 4-bit ones are"),
        ({"training.fp8": True}, "fp8"),
        ({"training.fp8": True, "model.compute_dtype": "float16"}, ""),  # there are no fp8 products then
        ({"training.compile": "off"}, "compiling is off"),
        ({"model.compute_dtype": "float32"}, "flash attention takes no float32"),
    ],
    ids=str,
)
def test_weights_stay_dequantized_where_products_take_them(changes: dict[str, Any], said: str) -> None:
    reason = not_kept_dequantized_reason("llama", with_changes(RunConfig(), changes))
    assert said in (reason or "") and bool(reason) == bool(said)
