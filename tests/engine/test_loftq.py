"""An adapter that begins as what 4 bits lost: the best of its rank, on a base that nobody changed."""

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch

from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.loftq import begin_with_what_was_lost
from qlora_studio.engine.merging import DEQUANTIZED, ORIGINAL, MergedWeights, base_layer
from qlora_studio.engine.wish import Wish
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import EvaluationFinished, RunStarted
from tests.engine.plain_stack import assert_plain_peft_agrees, plain_base
from tests.engine.test_resume import RESTLESS, assert_same_bits
from tests.engine.tiny import CPU, events_of, loaded, make_model, make_run, of_kind

IDS = torch.arange(3, 20)[None]
NF4 = Storage("nf4", True, torch.float32)
LOFTQ: dict[str, Any] = {"lora__init": "loftq", "lora__r": 16, "lora__alpha": 8}


def begun(folder: Path, storage: Storage = NF4, **lora: Any) -> AdaptedModel:
    adapted = AdaptedModel(loaded(load_base(str(folder), storage, CPU)))
    settings = {f"lora.{name}": value for name, value in ({"r": 16, "alpha": 8} | lora).items()}
    adapted.add_new("tuned", with_changes(RunConfig(), settings).lora, seed=0)
    list(begin_with_what_was_lost(adapted, "tuned"))
    return adapted


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("rslora", [False, True])
def test_each_weight_is_as_near_to_the_original_as_that_rank_allows(
    tmp_path: Path, family: str, rslora: bool
) -> None:
    adapted = begun(make_model(tmp_path / "model", family), use_rslora=rslora)

    for name in adapted.linears:
        weight = f"{name}.weight"
        merged = MergedWeights(adapted, "tuned", DEQUANTIZED).in_32_bit().tensor(weight)
        original = MergedWeights(adapted, "none", ORIGINAL).in_32_bit()._original(weight).float()
        quantized = MergedWeights(adapted, "none", DEQUANTIZED).in_32_bit().tensor(weight)
        sizes = torch.linalg.svdvals(original - quantized)
        best = sizes[16:].norm()
        assert best < 0.9 * sizes.norm()  # there is something to be won
        assert (original - merged).norm() <= 1.01 * best, name


def test_the_base_stays_and_its_answers_come_nearer_to_those_of_16_bit(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    before = AdaptedModel(loaded(load_base(str(folder), NF4, CPU)))
    adapted = begun(folder)

    for name in adapted.linears:
        now, then = (base_layer(model.causal_lm.get_submodule(name)) for model in (adapted, before))
        assert isinstance(now, bnb.nn.Linear4bit)
        assert torch.equal(now.weight.data, then.weight.data)
    with torch.no_grad():
        begins = adapted.causal_lm.eval()(IDS).logits
        alone = before.causal_lm.eval()(IDS).logits
        exact = plain_base(folder, Storage("none", False, torch.float32))(IDS).logits
    assert (begins - exact).norm() < 0.9 * (alone - exact).norm()


def test_plain_peft_on_the_models_own_folder_gives_what_was_trained(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    run = make_run(tmp_path, model, training__steps=3, training__learning_rate=1e-3, **LOFTQ)
    events_of(run)

    assert_plain_peft_agrees(model, run / "adapter", NF4, IDS)


@pytest.mark.parametrize("stop_after", [0, 2])
def test_it_goes_on_bit_for_bit(tmp_path: Path, stop_after: int) -> None:
    model = make_model(tmp_path / "model")
    settings = {**RESTLESS, **LOFTQ, "training__steps": 4}
    unbroken, broken = make_run(tmp_path, model, **settings), make_run(tmp_path, model, **settings)
    plain = make_run(tmp_path, model, **{**settings, "lora__init": "default"})
    first = of_kind(events_of(unbroken), EvaluationFinished)[0].loss

    events_of(broken, Wish.PAUSE, after_step=stop_after)
    events = events_of(broken)

    assert of_kind(events, RunStarted)[0].step == stop_after
    assert_same_bits(broken, unbroken)
    assert of_kind(events_of(plain), EvaluationFinished)[0].loss != first


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lora.init": "pissa"}, "takes its part out of the base's weights"),
        ({"model.quantization": "none"}, "with model.quantization = 'none' there is nothing"),
        ({"model.quantization": "int8"}, "with model.quantization = 'int8' there is nothing"),
        ({"lora.use_dora": True}, "lora.use_dora can't stand together"),
        ({"model.path": "shape:llama-7b"}, "shape:llama-7b has none"),
        ({"training.method": "dpo"}, "DPO compares with the base model alone"),
    ],
)
def test_where_it_could_not_be_had_it_is_refused_with_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(StudioError) as refused:
        with_changes(RunConfig(), {"lora.init": "loftq"} | changes)
    assert reason in refused.value.message
    assert refused.value.hint
