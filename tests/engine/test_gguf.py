"""A run exported as GGUF: read again in a fresh process it says what the adapter said, or gets no tick."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import psutil
import pytest
import torch

from qlora_studio.engine import exporting, verifying
from qlora_studio.engine.exporting import export
from qlora_studio.engine.gguf_model import GgufModel
from qlora_studio.engine.gguf_running import llama_cpp, run_gguf
from qlora_studio.engine.gguf_tokenizer import GgufTokenizer
from qlora_studio.engine.merging import MergedWeights
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.errors import StudioError
from qlora_studio.models.template import template_sha256
from qlora_studio.protocol.commands import Export
from qlora_studio.protocol.events import ExportFinished
from qlora_studio.runs import space
from qlora_studio.runs.run_record import Hashes, read_record, write_record
from tests.engine.byte_tokenizer import TEMPLATE, VOCAB, write_byte_tokenizer
from tests.engine.tiny import CPU, events_of, make_model, make_run
from tests.engine.tuned_run import make_tuned_run

PROMPTS = (tuple(range(10, 25)), tuple(range(40, 48)), (5, 9, 70))


# Llama 3.1's, for a model of 256 positions: of its 8 frequencies some are left, some divided, some between.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def never() -> bool:
    return False


@pytest.fixture(autouse=True)
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "REPLY_TOKENS", 12)


@pytest.fixture(autouse=True)
def without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a process more: only where it is what the test is about."""
    monkeypatch.setattr(exporting, "llama_cpp", lambda: "")


@pytest.fixture
def with_llama_cpp(without_llama_cpp: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if not llama_cpp():
        pytest.skip("xllamacpp has no wheel for this system")
    monkeypatch.setattr(exporting, "llama_cpp", llama_cpp)


def byte_model(folder: Path, family: str = "llama", cut: str = "gpt-2", **changes: Any) -> Path:
    model = make_model(folder, family, vocab_size=VOCAB, **changes)
    write_byte_tokenizer(model, cut)
    (model / "LICENSE").write_text("Apache License")
    return model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_tuned_run(tmp_path, byte_model(tmp_path / "model"))


def exported(
    run: Path, out: Path, quant: str = "q8_0", stopped: Callable[[], bool] = never, modelfile: str = ""
) -> ExportFinished:
    order = Export(
        id=4, run=str(run), to="gguf", out=str(out), quant=quant, modelfile=modelfile, prompts=PROMPTS
    )
    *_, finished = export(order, ModelHolder(CPU), stopped)
    assert isinstance(finished, ExportFinished)
    return finished


def gguf_in(folder: Path) -> gguf.GGUFReader:
    (file,) = folder.glob("*.gguf")
    return gguf.GGUFReader(file)


def said(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field is not None, key
    return field.contents()


@pytest.mark.parametrize(
    ("family", "cut", "changes"),
    [
        ("llama", "smollm", {"tie_word_embeddings": True}),
        ("qwen2", "qwen2", {}),
        ("mistral", "gpt-2", {"sliding_window": None}),
        ("llama", "llama-bpe", {"rope_parameters": LLAMA3_ROPE}),
    ],
)
def test_a_gguf_in_16_bit_answers_as_the_adapter_did(
    tmp_path: Path, with_llama_cpp: None, family: str, cut: str, changes: dict[str, Any]
) -> None:
    run = make_tuned_run(tmp_path, byte_model(tmp_path / "model", family, cut, **changes))

    finished = exported(run, tmp_path / "out", "f16")

    verified = finished.verified
    assert verified.passed, verified
    assert verified.mean_kl is not None
    assert verified.mean_kl < 1e-5
    assert verified.max_logprob_drift < 0.02
    assert verified.with_.startswith("transformers ")
    assert ("positions scaled by us" in verified.with_) == ("rope_parameters" in changes)
    assert "dequantized NF4" in (verified.merge_base or "")
    assert verified.run is not None
    assert verified.run.with_.startswith("llama.cpp (xllamacpp ")
    assert verified.run.token_agreement >= 0.95
    assert verified.run.max_logprob_drift < 0.02
    assert verified.run.same_replies == len(PROMPTS)
    assert set(finished.files) == {f"{run.name}-F16.gguf", "LICENSE", "README.md"}
    assert f"llama-cli -m {run.name}-F16.gguf" in (tmp_path / "out" / "README.md").read_text()


def test_a_gguf_in_8_bit_carries_tokenizer_template_and_sizes_and_is_named_in_its_modelfile(
    run: Path, tmp_path: Path
) -> None:
    finished = exported(run, tmp_path / "out", modelfile='TEMPLATE """x"""\n')

    assert all(said.startswith("Try F16") for said in finished.verified.problems)
    assert finished.verified.mean_kl is not None
    assert 0 < finished.verified.mean_kl < 0.02
    reader = gguf_in(tmp_path / "out")
    assert said(reader, "tokenizer.chat_template") == TEMPLATE
    assert said(reader, "tokenizer.ggml.pre") == "gpt-2"
    assert len(said(reader, "tokenizer.ggml.tokens")) == VOCAB
    assert said(reader, "tokenizer.ggml.tokens")[261:264] == ["<|begin|>", "<|end|>", "[PAD263]"]
    assert said(reader, "tokenizer.ggml.eos_token_id") == 262
    assert said(reader, "llama.attention.head_count_kv") == 2
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["output_norm.weight"] == "F32"
    assert sum(int(tensor.n_bytes) for tensor in reader.tensors) < finished.bytes
    assert "Modelfile" in finished.files
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text == f'FROM ./{run.name}-Q8_0.gguf\nTEMPLATE """x"""\n'


def test_another_template_in_the_file_gets_no_tick(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = GgufTokenizer.say

    def wrong(self: GgufTokenizer, writer: gguf.GGUFWriter) -> None:
        right(dataclasses.replace(self, template="{{ messages[0].content }}"), writer)

    monkeypatch.setattr(GgufTokenizer, "say", wrong)

    verified = exported(run, tmp_path / "out", "f16").verified

    assert not verified.passed
    assert verified.token_agreement == 1.0
    assert "chat template in the file is another one" in verified.problems[0]


def test_a_tokenizer_that_cuts_otherwise_and_rows_out_of_order_get_no_tick(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_llama_cpp: None
) -> None:
    right = GgufTokenizer.say
    monkeypatch.setattr(
        GgufTokenizer, "say", lambda self, writer: right(dataclasses.replace(self, pre="smollm"), writer)
    )
    monkeypatch.setattr(GgufModel, "as_stored", lambda self, name, tensor: tensor)

    verified = exported(run, tmp_path / "out", "f16").verified

    assert not verified.passed
    assert verified.mean_kl is not None
    assert verified.mean_kl > 0.02
    assert "tokenizer in the file cuts" in verified.problems[0]
    assert "In llama.cpp only" in verified.problems[1]


def test_scaled_positions_that_are_left_out_get_no_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_tuned_run(tmp_path, byte_model(tmp_path / "model", rope_parameters=LLAMA3_ROPE))
    factors = GgufModel.of(tmp_path / "model").rope_factors
    assert factors is not None
    assert (factors.min(), factors.max()) == (pytest.approx(1.0), pytest.approx(8.0))
    monkeypatch.setattr(GgufModel, "rope_factors", None)

    verified = exported(run, tmp_path / "out", "f16").verified

    assert not verified.passed


def test_a_file_that_llama_cpp_cannot_run_gets_no_tick(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_llama_cpp: None
) -> None:
    def on_half(file: Path, *words: Any) -> Any:
        half = tmp_path / "half.gguf"
        half.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return run_gguf(half, *words)

    monkeypatch.setattr(exporting, "run_gguf", on_half)

    verified = exported(run, tmp_path / "out").verified

    assert (verified.passed, verified.run) == (False, None)
    assert "llama.cpp can't run the file" in verified.problems[0]


def test_a_file_that_cannot_be_read_again_is_removed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GgufTokenizer, "say", lambda self, writer: None)

    with pytest.raises(StudioError, match="can't be read again"):
        exported(run, tmp_path / "exports" / "out")

    assert list((tmp_path / "exports").iterdir()) == []


@pytest.mark.parametrize("after", [0, 3, 34, 47])
def test_a_stopped_export_leaves_nothing_behind(run: Path, tmp_path: Path, after: int) -> None:
    asked = iter(range(10_000))
    before = set(psutil.Process().children(recursive=True))  # other tests' compilers live on

    with pytest.raises(StudioError, match="stopped"):
        exported(run, tmp_path / "exports" / "out", stopped=lambda: next(asked) >= after)

    assert list((tmp_path / "exports").iterdir()) == []
    assert set(psutil.Process().children(recursive=True)) <= before


def test_room_is_looked_for_before_anything_is_loaded(  # R9
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda folder: 1000)
    with pytest.raises(StudioError, match=r"The GGUF file needs .* missing"):
        exported(run, tmp_path / "out")


def test_a_file_that_memory_cannot_hold_again_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(StudioError, match="Checking the GGUF file takes"):
        exported(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_number_that_16_bit_cannot_hold_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "closest_merge", lambda *_: (_Huge(), "as it is"))
    with pytest.raises(StudioError, match=r"numbers that F16 can't hold") as refused:
        exported(run, tmp_path / "out", "f16")
    assert refused.value.hint == "Export the merged model instead."


class _Huge:
    shapes = {"model.embed_tokens.weight": (VOCAB, 64)}  # noqa: RUF012

    def in_32_bit(self) -> _Huge:
        return self

    def tensor(self, name: str) -> torch.Tensor:
        return torch.full((VOCAB, 64), 70_000.0)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gemma", {}, "A gemma model can't be written as GGUF here; llama, mistral, qwen2 can"),
        ("mistral", {}, "it looks back 8 tokens only"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "positions are scaled",
        ),
        ("llama", {"attention_bias": True}, "biases"),
        ("llama", {"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_a_model_that_gguf_cannot_say_is_refused_with_the_reason(
    tmp_path: Path, family: str, changes: dict[str, Any], reason: str
) -> None:
    model = byte_model(tmp_path / "model", family, **changes)
    with pytest.raises(StudioError, match=reason):
        GgufModel.of(model)


def test_a_tokenizer_that_gguf_has_no_name_for_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    with pytest.raises(StudioError, match=r"tokenizer\.json can't be carried .* no byte-level BPE"):
        GgufTokenizer.of(model)


@pytest.mark.parametrize("to", ["merged", "gguf"])
def test_a_template_that_changed_after_training_is_refused_and_the_difference_shown(
    tmp_path: Path, to: str
) -> None:
    model = byte_model(tmp_path / "model")
    run = make_tuned_run(tmp_path, model)
    (run / "chat_template.jinja").write_text(TEMPLATE)
    hashes = Hashes(template=template_sha256(TEMPLATE))
    record = read_record(run).record
    (run / "run.json").unlink()
    write_record(run, msgspec.structs.replace(record, hashes=hashes))
    (model / "chat_template.jinja").write_text("{{ messages }}")
    command = Export(id=1, run=str(run), to=to, out=str(tmp_path / "out"), prompts=((3, 4),))
    with pytest.raises(StudioError, match="another one than in training") as refused:
        list(export(command, ModelHolder(CPU), lambda: False))
    assert "+{{ messages }}" in refused.value.hint
    assert not (tmp_path / "out").exists()


def test_a_quantization_that_is_not_known_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="'q2_k'; choose q8_0, f16, q6_k"):
        exported(run, tmp_path / "out", "q2_k")


def test_the_numbers_are_rounded_once_from_32_bit(run: Path, tmp_path: Path) -> None:
    """Through bfloat16 they would lose three bits first."""
    kept: list[MergedWeights] = []
    right = MergedWeights.in_32_bit

    def keeping(self: MergedWeights) -> MergedWeights:
        kept.append(right(self))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MergedWeights, "in_32_bit", keeping)
        exported(run, tmp_path / "out", "f16")

    name = "model.layers.1.mlp.down_proj.weight"
    stored = next(t for t in gguf_in(tmp_path / "out").tensors if t.name == "blk.1.ffn_down.weight")
    expected = kept[0].tensor(name).numpy().astype(np.float16)
    assert np.array_equal(stored.data, expected)


def test_a_gguf_of_a_model_whose_weights_were_all_trained_answers_as_it_did(tmp_path: Path) -> None:
    full = {"training__finetuning": "full", "model__quantization": "none", "training__learning_rate": 1e-3}
    run = make_run(tmp_path, byte_model(tmp_path / "model"), **full, training__steps=4)
    events_of(run)

    finished = exported(run, tmp_path / "out", "f16")

    assert finished.verified.passed, finished.verified
    assert finished.verified.merge_base == "All weights were trained: nothing is merged."
    assert set(finished.files) == {f"{run.name}-F16.gguf", "LICENSE", "README.md"}
