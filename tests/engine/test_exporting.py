from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import psutil
import pytest
import torch
from huggingface_hub import metadata_load
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from qlora_studio.engine import exporting, verifying
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.exporting import export
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.generation import Chat
from qlora_studio.engine.learned_loss import Head
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.merging import DEQUANTIZED, ORIGINAL, MergedWeights
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.errors import StudioError
from qlora_studio.models.check import check_model
from qlora_studio.models.merged import is_merged
from qlora_studio.protocol.commands import Export, Generate, LoadModel, Sampling
from qlora_studio.protocol.events import (
    ExportFinished,
    ExportProgress,
    GenerationFinished,
    ModelLoaded,
)
from qlora_studio.runs import space
from tests.engine.tiny import CPU, events_of, loaded, make_model, make_run, model_with_its_own_head
from tests.engine.tuned_run import make_tuned_run

PROMPTS = (tuple(range(10, 25)), tuple(range(40, 48)), (5, 9, 70))


def never() -> bool:
    return False


def exported(
    run: Path,
    out: Path,
    to: str,
    holder: ModelHolder | None = None,
    stopped: Callable[[], bool] = never,
    **changes: Any,
) -> tuple[list[Any], ExportFinished]:
    settings: dict[str, Any] = {"prompts": PROMPTS} | changes
    command = Export(id=4, run=str(run), to=to, out=str(out), **settings)
    *told, finished = export(command, holder or ModelHolder(CPU), stopped)
    assert isinstance(finished, ExportFinished)
    return told, finished


def trained_run(tmp_path: Path, family: str = "llama", **changes: Any) -> Path:
    """A run that is finished, and its model with a licence."""
    model = make_model(tmp_path / f"model-{family}", family)
    (model / "LICENSE").write_text("Apache License")
    return make_tuned_run(tmp_path, model, **changes)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return trained_run(tmp_path)


@pytest.fixture
def saved_run(tmp_path: Path) -> Path:
    """With a checkpoint after its first update."""
    run = make_run(tmp_path, make_model(tmp_path / "model"), training__steps=1)
    events_of(run)
    return run


@pytest.fixture(autouse=True)
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are many; every token of a tiny model is as good as another."""
    monkeypatch.setattr(verifying, "REPLY_TOKENS", 12)


def as_trained(run: Path, quantization: str = "nf4") -> torch.Tensor:
    """Logits of the first prompt by the base as it was stored in training, with the adapter."""
    model = run.parents[1] / next(path.name for path in run.parents[1].glob("model-*"))
    adapted = AdaptedModel(loaded(load_base(str(model), Storage(quantization, True, torch.float32), CPU)))
    adapted.use(adapted.add_from(run / "adapter"))
    with torch.no_grad():
        hidden = adapted.causal_lm.base_model(torch.tensor(PROMPTS[:1]), use_cache=False).last_hidden_state
        return Head.of(adapted.causal_lm).logits(hidden)


def by_plain_transformers(folder: Path) -> torch.Tensor:
    """Logits of the first prompt."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor(PROMPTS[:1])).logits
    return logits


def test_an_exported_adapter_is_the_trained_one_in_peft_s_format(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "adapter"
    _, finished = exported(run, out, "adapter")

    assert set(finished.files) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert finished.bytes == sum(path.stat().st_size for path in out.iterdir())
    verified = finished.verified
    assert (verified.token_agreement, verified.mean_kl, verified.max_logprob_drift) == (1.0, 0.0, 0.0)
    assert verified.passed
    assert (verified.same_replies, verified.first_difference) == (3, None)
    assert verified.with_.startswith("peft ")
    assert verified.prompts == 3
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (out / name).read_bytes() == (run / "adapter" / name).read_bytes()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model-llama", dtype=torch.float32)
    PeftModel.from_pretrained(base, str(out))


def test_a_checkpoint_can_be_exported_before_the_run_is_done(saved_run: Path, tmp_path: Path) -> None:
    _, finished = exported(saved_run, tmp_path / "out", "adapter", checkpoint=1)
    saved = saved_run / "checkpoints" / "step-000001" / "adapter_model.safetensors"
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == saved.read_bytes()
    assert "trainer.json" not in finished.files


def chat_reply(
    model: Path, holder: ModelHolder, adapter: Path | None = None
) -> tuple[str, str, tuple[str, ...]]:
    """What a chat says, how the weights are stored for it, and what it notes."""
    chat = Chat(holder)
    order = LoadModel(id=1, model=str(model), compute_dtype="float32", alone=adapter is None)
    *_, told = chat.load(order)
    greedy = Sampling(greedy=True, max_tokens=12)
    asked = Generate(id=2, prompt_ids=PROMPTS[0], adapter=str(adapter) if adapter else None, sampling=greedy)
    *_, finished = chat.answer(asked, never)
    assert holder.held is not None
    assert isinstance(told, ModelLoaded)
    assert isinstance(finished, GenerationFinished)
    return finished.reply, holder.held.base.storage.quantization, told.notes


def test_a_merged_model_is_chatted_with_in_the_weights_it_was_merged_in(run: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "model-llama", tmp_path / "out"
    holder = ModelHolder(CPU)
    tuned = chat_reply(model, holder, run / "adapter")
    exported(run, out, "merged", holder)

    assert (is_merged(model), is_merged(out)) == (False, True)
    assert chat_reply(model, holder)[1:] == ("nf4", ())
    assert chat_reply(out, holder) == (tuned[0], "none", ())


def test_a_merged_model_that_is_too_large_for_its_16_bit_is_quantized_and_said_to_lose(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(run, tmp_path / "out", "merged")
    monkeypatch.setattr("qlora_studio.engine.generation._HEADROOM", 1e9)  # the 4 bit weights fit all the same

    _, quantization, notes = chat_reply(tmp_path / "out", ModelHolder(CPU))

    assert quantization == "nf4"
    assert "some of it is lost" in notes[0]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "phi3", "gpt2", "gpt_neox"])
def test_a_merged_model_answers_in_plain_transformers_as_the_adapter_did(tmp_path: Path, family: str) -> None:
    run, out = trained_run(tmp_path, family), tmp_path / "out"
    told, finished = exported(run, out, "merged")

    assert finished.verified.mean_kl is not None
    assert finished.verified.mean_kl < 2e-4
    assert finished.verified.with_.startswith("transformers ")
    assert "dequantized NF4" in (finished.verified.merge_base or "")
    difference = (by_plain_transformers(out) - as_trained(run)).abs().max()
    assert difference < 0.05 * as_trained(run).abs().max()  # bfloat16 keeps 8 bits of a number
    report = check_model(str(out))
    no_template, trained = report.warnings
    assert (report.family, "template" in no_template, "was trained here" in trained) == (family, True, True)
    progress = [event for event in told if isinstance(event, ExportProgress) and event.total]
    assert (
        progress[-1].done
        == progress[-1].total
        == sum(
            path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")
            for path in out.glob("*.safetensors")
        )
    )
    assert "LICENSE" in finished.files


@pytest.mark.parametrize(
    "changes",
    [
        {"lora__use_dora": True},
        {"lora__use_rslora": True},
        {"lora__target_modules": ("q_proj", "down_proj")},
        {"model__quantization": "fp4"},
        {"model__quantization": "int8"},
        {"model__quantization": "none"},
        {"model__compute_dtype": "bfloat16"},
    ],
    ids=str,
)
def test_every_kind_of_adapter_and_base_is_merged(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = trained_run(tmp_path, **changes)
    _, finished = exported(run, tmp_path / "out", "merged")
    assert finished.verified.mean_kl is not None
    assert finished.verified.mean_kl < 2e-4  # of a random model's tokens many are all but equally likely


@pytest.mark.parametrize("kind", [{"lora__use_dora": True}, {"lora__use_rslora": True}, {}])
def test_merged_weights_are_those_that_peft_merges(tmp_path: Path, kind: dict[str, Any]) -> None:
    run = trained_run(tmp_path, **kind)
    folder = tmp_path / "model-llama"
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), str(run / "adapter")
    ).merge_and_unload()
    adapted = AdaptedModel(loaded(load_base(str(folder), Storage("none", False, torch.float32), CPU)))
    merged = MergedWeights(adapted, adapted.add_from(run / "adapter"), ORIGINAL)

    for name, weight in plain.state_dict().items():
        assert torch.allclose(merged.tensor(name).float(), weight, rtol=2**-8, atol=1e-6)


def test_the_closer_base_is_chosen_by_measuring_both(run: Path, tmp_path: Path) -> None:
    """The tiny model's numbers are rough in NF4: the original ones answer differently."""
    model = tmp_path / "model-llama"
    adapted = AdaptedModel(loaded(load_base(str(model), Storage("nf4", True, torch.float32), CPU)))
    name = adapted.add_from(run / "adapter")
    quantized = MergedWeights(adapted, name, DEQUANTIZED)
    original = MergedWeights(adapted, name, ORIGINAL)
    layer = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(quantized.tensor(layer), original.tensor(layer))
    assert torch.equal(
        quantized.tensor("model.embed_tokens.weight"), original.tensor("model.embed_tokens.weight")
    )

    _, finished = exported(run, tmp_path / "out", "merged")
    words = finished.verified.merge_base or ""
    assert words.startswith("Merged into the dequantized NF4 weights: mean KL")
    assert "with the original weights" in words


def test_a_model_that_fits_nowhere_is_read_again_a_layer_at_a_time(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(exporting, "merged_bytes", lambda shape: 0)
    _, finished = exported(run, tmp_path / "out", "merged")
    assert finished.verified.with_ == "QLoRA Studio, a layer at a time"
    assert finished.verified.mean_kl is not None
    assert finished.verified.mean_kl < 2e-4


def test_an_export_that_differs_is_said_to(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = MergedWeights.tensor

    def wrong(self: MergedWeights, name: str) -> torch.Tensor:
        return -right(self, name) if "down_proj" in name else right(self, name)

    monkeypatch.setattr(MergedWeights, "tensor", wrong)
    _, finished = exported(run, tmp_path / "out", "merged")
    assert not finished.verified.passed
    assert finished.verified.token_agreement < 0.95
    assert finished.verified.same_replies is not None
    assert finished.verified.same_replies < len(PROMPTS)
    assert finished.verified.first_difference is not None
    assert finished.verified.first_difference.times_likelier > 1


@pytest.mark.parametrize("double_quant", [True, False])
def test_a_merged_model_in_nf4_is_what_transformers_loads_in_4_bit(
    tmp_path: Path, double_quant: bool
) -> None:
    run, out = trained_run(tmp_path, model__double_quant=double_quant), tmp_path / "out"
    _, finished = exported(run, out, "merged", quant="nf4")

    verified = finished.verified
    assert "bitsandbytes" in verified.with_
    assert verified.mean_kl is not None
    assert 1e-5 < verified.mean_kl < 0.1  # rounded to 4 bit once more
    assert "stored in NF4 again: mean KL" in (verified.merge_base or "")
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, bnb.nn.Linear4bit)
    assert layer.weight.quant_state.nested == double_quant
    assert not isinstance(model.lm_head, bnb.nn.Linear4bit)
    adapted = AdaptedModel(
        loaded(load_base(str(tmp_path / "model-llama"), Storage("nf4", double_quant, torch.float32), CPU))
    )
    base = DEQUANTIZED if "dequantized" in (verified.merge_base or "").split(":")[0] else ORIGINAL
    merged = MergedWeights(adapted, adapted.add_from(run / "adapter"), base).in_32_bit()
    wanted = merged.tensor("model.layers.0.mlp.up_proj.weight")
    codes, state = bnb.functional.quantize_4bit(
        wanted, blocksize=64, compress_statistics=double_quant, quant_type="nf4"
    )
    assert torch.equal(layer.weight.data, codes)
    assert torch.equal(
        bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float(),
        bnb.functional.dequantize_4bit(codes, state).bfloat16().float(),
    )
    with pytest.raises(StudioError, match=r"already quantized \(bitsandbytes\)"):
        check_model(str(out))


def test_what_nf4_loses_is_told_with_what_to_try(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MOST_KL_QUANTIZED", 0.0)
    verified = exported(run, tmp_path / "out", "merged", quant="nf4")[1].verified
    assert not verified.passed
    assert verified.problems[-1].startswith("Try 16 bit")


def test_a_family_whose_weights_lie_turned_round_is_refused_in_nf4(tmp_path: Path) -> None:
    run = trained_run(tmp_path, "gpt2")
    with pytest.raises(StudioError, match="turned round"):
        exported(run, tmp_path / "out", "merged", quant="nf4")
    assert not (tmp_path / "out").exists()


def test_a_wrong_merge_base_gets_no_tick(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = exported(run, tmp_path / "closest", "merged")[1].verified
    monkeypatch.setattr(
        exporting,
        "closest_merge",
        lambda adapted, adapter, trained, go_on: (MergedWeights(adapted, adapter, ORIGINAL), "planted"),
    )

    planted = exported(run, tmp_path / "planted", "merged")[1].verified

    assert (measured.passed, planted.passed) == (True, False)
    assert planted.mean_kl is not None
    assert measured.mean_kl is not None
    assert planted.mean_kl > 100 * measured.mean_kl


@pytest.mark.parametrize(("to", "library"), [("adapter", "peft"), ("merged", "transformers")])
def test_an_export_has_a_card_with_what_it_was_made_from_and_no_folder_of_this_machine(
    run: Path, tmp_path: Path, to: str, library: str
) -> None:
    _, finished = exported(run, tmp_path / "out", to)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    head = metadata_load(tmp_path / "out" / "README.md")
    assert head is not None
    assert head["library_name"] == library
    assert head["license"] == "apache-2.0"
    assert head["tags"] == ["qlora", "lora"]
    assert f"| Likeliest tokens that agree | {finished.verified.token_agreement:.1%} |" in card
    assert "| Adapter | rank " in card
    assert "fp8" not in card
    assert str(tmp_path) not in card
    assert (finished.verified.merge_base or "") in card


def test_a_card_names_fp8_where_it_was_asked_for(tmp_path: Path) -> None:
    exported(trained_run(tmp_path, training__fp8=True), tmp_path / "out", "adapter")
    assert (
        "| Products of frozen 4-bit weights | in fp8 (e4m3)" in (tmp_path / "out" / "README.md").read_text()
    )


def test_what_agrees_in_its_likeliest_tokens_alone_says_what_differs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MOST_KL", 0.0)
    _, finished = exported(run, tmp_path / "out", "merged")
    assert finished.verified.token_agreement == 1.0
    assert not finished.verified.passed
    assert finished.verified.problems[0].startswith("Mean KL is ")


def test_after_an_export_the_engine_trains_as_before(tmp_path: Path, run: Path) -> None:
    def adapter_after(holder: ModelHolder) -> bytes:
        other = make_run(tmp_path, tmp_path / "model-llama", training__steps=2)
        events_of(other, holder=holder)
        return (other / "adapter" / "adapter_model.safetensors").read_bytes()

    holder = ModelHolder(CPU)
    exported(run, tmp_path / "out", "merged", holder)
    assert adapter_after(holder) == adapter_after(ModelHolder(CPU))


@pytest.mark.parametrize("after", [0, 1, 5, 30, 45])
def test_a_stopped_export_leaves_nothing_behind(tmp_path: Path, run: Path, after: int) -> None:
    asked = iter(range(10_000))
    with pytest.raises(StudioError, match="stopped"):
        exported(run, tmp_path / "exports" / "out", "merged", stopped=lambda: next(asked) >= after)
    assert list((tmp_path / "exports").iterdir()) == []


def test_a_folder_that_exists_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("out", "link"):
        with pytest.raises(StudioError, match="exists already"):
            exported(run, tmp_path / name, "adapter")


def test_room_is_looked_for_before_anything_is_loaded(  # R9
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda folder: 1000)
    holder = ModelHolder(CPU)
    with pytest.raises(StudioError, match=r"The merged model needs .* missing"):
        exported(run, tmp_path / "out", "merged", holder)
    assert holder.held is None
    assert not (tmp_path / "out").exists()


def test_a_run_without_an_adapter_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_model(tmp_path / "model"))
    with pytest.raises(StudioError, match="no adapter yet"):
        exported(run, tmp_path / "out", "adapter")


def test_a_checkpoint_that_is_damaged_is_refused(saved_run: Path, tmp_path: Path) -> None:  # R2
    file = saved_run / "checkpoints" / "step-000001" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StudioError, match=r"adapter_model\.safetensors has changed"):
        exported(saved_run, tmp_path / "out", "adapter", checkpoint=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"to": "onnx"}, "onnx"),
        ({"prompts": ()}, "compared on prompts"),
        ({"to": "merged", "quant": "q8_0"}, "No merged model can be written in 'q8_0'; choose nf4"),
    ],
)
def test_what_can_not_be_exported_is_refused(
    run: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(StudioError, match=words):
        exported(run, tmp_path / "out", **{"to": "adapter"} | changes)


@pytest.fixture
def full_run(tmp_path: Path) -> Path:
    """Of which all weights were trained, far enough to answer otherwise."""
    model = make_model(tmp_path / "model")
    full = {"training__finetuning": "full", "model__quantization": "none", "training__learning_rate": 1e-3}
    run = make_run(tmp_path, model, **full, training__steps=10)
    events_of(run)
    return run


def test_of_all_weights_the_model_itself_is_written_and_verified(full_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, finished = exported(full_run, out, "merged")
    assert finished.verified.passed
    assert finished.verified.merge_base == "All weights were trained: nothing is merged."
    own, written = (load_file(folder / "model.safetensors") for folder in (full_run / "model", out))
    assert own.keys() == written.keys()
    assert all(torch.equal(own[name], written[name]) for name in own)
    assert "| Trained | all weights, no adapter |" in (out / "README.md").read_text("utf-8")


def test_of_all_weights_there_is_no_adapter_to_write(full_run: Path, tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="trained all weights: it has no adapter"):
        exported(full_run, tmp_path / "out", "adapter")
    with pytest.raises(StudioError, match="only its finished model"):
        exported(full_run, tmp_path / "out", "merged", checkpoint=2)


def test_a_trained_model_is_chatted_with_in_16_bit(full_run: Path) -> None:
    """What it learned is smaller than the steps of 4 bit."""
    assert check_model(str(full_run / "model"), lambda done, total, words: None).merged
    holder = ModelHolder(CPU)
    list(Chat(holder).load(LoadModel(id=1, model=str(full_run / "model"), alone=True)))
    assert holder.held is not None
    assert holder.held.base.storage.quantization == "none"


def test_a_head_of_its_own_is_written_as_that_whatever_the_base_said_of_it(tmp_path: Path) -> None:
    run = make_tuned_run(tmp_path, model_with_its_own_head(tmp_path / "model"))
    _, finished = exported(run, tmp_path / "out", "merged")
    assert finished.verified.mean_kl is not None
    assert finished.verified.mean_kl < 2e-4
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.config.tie_word_embeddings is False
    assert not torch.equal(merged.get_output_embeddings().weight, merged.get_input_embeddings().weight)
