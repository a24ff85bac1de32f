"""llama.cpp's K-quants: the format of each tensor, and numbers that read back as what they were."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from qlora_studio.engine import exporting, k_quants, verifying
from qlora_studio.engine.exporting import export
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.errors import StudioError
from qlora_studio.models.gguf_support import K_QUANTS, QUANTIZER, gguf_bytes, quant_problem
from qlora_studio.protocol.commands import Export
from qlora_studio.protocol.events import ExportFinished
from tests.engine.byte_tokenizer import VOCAB, write_byte_tokenizer
from tests.engine.tiny import CPU, make_model
from tests.engine.tuned_run import make_tuned_run

needs_quantizer = pytest.mark.skipif(
    importlib.util.find_spec(QUANTIZER) is None, reason=f"{QUANTIZER} has no wheel for this system"
)
LAYERS = 16
SHAPES = {
    "model.embed_tokens.weight": (1000, 512),
    "lm_head.weight": (1000, 512),
    **{f"model.layers.{layer}.self_attn.v_proj.weight": (128, 512) for layer in range(LAYERS)},
    **{f"model.layers.{layer}.mlp.down_proj.weight": (512, 1376) for layer in range(LAYERS)},
    **{f"model.layers.{layer}.mlp.up_proj.weight": (1376, 512) for layer in range(LAYERS)},
}


def kinds(quant: str, name: str) -> list[Kind]:
    types = k_quants.types_of(SHAPES, quant)
    return [types[f"model.layers.{layer}.{name}.weight"] for layer in range(LAYERS)]


def test_values_of_some_layers_and_what_writes_tokens_are_stored_finer() -> None:
    types = k_quants.types_of(SHAPES, "q4_k_m")
    assert (types["lm_head.weight"], types["model.embed_tokens.weight"]) == (Kind.Q6_K, Kind.Q4_K)
    finer = [layer for layer, kind in enumerate(kinds("q4_k_m", "self_attn.v_proj")) if kind is Kind.Q6_K]
    assert finer == [0, 1, 4, 7, 10, 13, 14, 15]
    assert set(kinds("q4_k_m", "mlp.up_proj")) == {Kind.Q4_K}
    assert set(kinds("q6_k", "self_attn.v_proj")) == {Kind.Q6_K}


def test_an_embedding_that_writes_tokens_too_is_stored_finer() -> None:
    tied = {name: shape for name, shape in SHAPES.items() if "lm_head" not in name}
    assert k_quants.types_of(tied, "q5_k_m")["model.embed_tokens.weight"] is Kind.Q6_K


def test_rows_that_are_no_whole_blocks_take_the_format_beside() -> None:
    assert set(kinds("q4_k_m", "mlp.down_proj")) == {Kind.Q5_0, Kind.Q8_0}  # 1376 is no multiple of 256
    assert k_quants.types_of({"a.weight": (4, 30)}, "q4_k_m") == {"a.weight": Kind.F16}


@needs_quantizer
@pytest.mark.parametrize(
    ("kind", "most"), [(Kind.Q6_K, 0.02), (Kind.Q5_K, 0.04), (Kind.Q4_K, 0.08), (Kind.Q5_0, 0.05)]
)
def test_numbers_read_back_are_close_to_what_they_were(kind: Kind, most: float) -> None:
    numbers = np.random.default_rng(0).standard_normal((37, 512)).astype(np.float32)
    stored = k_quants.quantized(numbers, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert stored.shape == (37, 512 // block * size)
    assert float(np.abs(gguf.dequantize(stored, kind) - numbers).mean()) < most


@needs_quantizer
def test_numbers_in_formats_that_both_libraries_make_are_the_same() -> None:
    numbers = np.random.default_rng(1).standard_normal((9, 96)).astype(np.float32)
    for kind in (Kind.Q8_0, Kind.Q5_0, Kind.Q5_1):
        assert np.array_equal(k_quants.quantized(numbers, kind), gguf.quantize(numbers, kind))


@needs_quantizer
@pytest.mark.parametrize("quant", K_QUANTS)
def test_a_file_of_k_quants_is_read_again_and_says_what_it_is(
    tmp_path: Path, quant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "REPLY_TOKENS", 4)
    model = make_model(tmp_path / "model", vocab_size=VOCAB, hidden_size=256, intermediate_size=512)
    write_byte_tokenizer(model)
    run = make_tuned_run(tmp_path, model)
    out = tmp_path / "out"
    command = Export(id=1, run=str(run), to="gguf", out=str(out), quant=quant, prompts=((3, 4, 5),))
    *_, finished = export(command, ModelHolder(CPU), lambda: False)
    assert isinstance(finished, ExportFinished)
    assert finished.verified.mean_kl is not None and finished.verified.mean_kl < 1
    closer = {"q4_k_m": "Q5_K_M", "q5_k_m": "Q6_K", "q6_k": "Q8_0"}[quant]
    assert finished.verified.passed is not any(f"Try {closer}" in said for said in finished.verified.problems)
    (file,) = out.glob("*.gguf")
    assert file.name.endswith(f"-{quant.upper()}.gguf")
    reader = gguf.GGUFReader(file)
    usual = {"q6_k": Kind.Q6_K, "q5_k_m": Kind.Q5_K, "q4_k_m": Kind.Q4_K}[quant]
    assert usual in {tensor.tensor_type for tensor in reader.tensors}
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType[f"MOSTLY_{quant.upper()}"]


def test_without_its_library_a_k_quant_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "quant_problem", lambda quant: f"{QUANTIZER} is not installed.")
    command = Export(
        id=1, run=str(tmp_path), to="gguf", out=str(tmp_path / "out"), quant="q4_k_m", prompts=((3,),)
    )
    with pytest.raises(StudioError, match="is not installed") as refused:
        list(export(command, ModelHolder(CPU), lambda: False))
    assert "choose Q8_0" in refused.value.hint


def test_what_gguf_itself_makes_needs_no_other_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert quant_problem("q8_0") == quant_problem("f16") == ""
    assert "not installed" in quant_problem("q6_k")


def test_a_model_of_an_odd_width_is_expected_to_take_more() -> None:
    assert gguf_bytes(10**9, "q4_k_m", 576) > gguf_bytes(10**9, "q4_k_m", 4096)
