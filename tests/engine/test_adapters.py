from pathlib import Path
from typing import Any

import pytest
import torch
from qlora_kernels.lora_layers import FusedLoraLinear4bit, keep_in_one

from qlora_studio.config.run_config import LoraConfig
from qlora_studio.data.packing import collate
from qlora_studio.data.tokenized_row import RowsInMemory
from qlora_studio.engine.adapters import AdaptedModel, NonFiniteError
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.greedy import continue_greedily
from qlora_studio.engine.learned_loss import learned_loss
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.packed_batch import on_device
from qlora_studio.errors import StudioError
from qlora_studio.memory.parts import adapter_parameters
from qlora_studio.models.shapes import model_shape
from tests.engine.plain_stack import gradients, plain_loss, plain_tuned
from tests.engine.tiny import CPU, loaded, make_model, make_rows

IDS = torch.arange(3, 20)[None]
NF4 = Storage("nf4", True, torch.float32)
INT8 = Storage("int8", False, torch.float32)
STORAGES = [NF4, INT8, Storage("none", False, torch.float32)]
KINDS = {
    "plain": LoraConfig(r=4),
    "rslora": LoraConfig(r=4, use_rslora=True),
    "dora": LoraConfig(r=4, use_dora=True),
    "some layers": LoraConfig(r=4, target_modules=("q_proj", "mlp.down_proj")),
    "by layer": LoraConfig(
        r=4,
        ranks={"q_proj": 7, "down_proj": 2, "1.mlp.down_proj": 9},
        alphas={"v_proj": 5, "0.self_attn.q_proj": 3},
    ),
    "the last layer": LoraConfig(r=4, layers="1", ranks={"k_proj": 8}, use_rslora=True),
}


def tuned(folder: Path, lora: LoraConfig = KINDS["plain"], storage: Storage = NF4) -> AdaptedModel:
    """A model whose adapter does something."""
    adapted = AdaptedModel(loaded(load_base(str(folder), storage, CPU)))
    adapted.add_new("tuned", lora, seed=0)
    torch.manual_seed(1)
    for _, weight in adapted.trained_parameters("tuned"):
        torch.nn.init.normal_(weight, std=0.1)
    return adapted


def our_gradients(adapted: AdaptedModel, rows: list[Any]) -> dict[str, torch.Tensor]:
    """Of the mean loss of these rows, packed."""
    batch = collate([tuple(range(len(rows)))], RowsInMemory(rows), pad_id=0)
    adapted.causal_lm.train()
    loss = learned_loss(adapted.causal_lm, on_device(batch, CPU.torch_device, keep_padding=False))
    (loss / batch.learned_tokens).backward()  # type: ignore[no-untyped-call]
    found = {}
    for name, weight in adapted.trained_parameters("tuned"):
        assert weight.grad is not None
        found[name], weight.grad = weight.grad, None
    return found


@pytest.mark.parametrize(
    ("kind", "storage"),
    [(kind, storage) for kind in KINDS for storage in STORAGES if (kind, storage) != ("dora", INT8)],
    ids=str,
)
def test_plain_peft_reads_our_adapter_and_gives_the_same_logits(
    tmp_path: Path, kind: str, storage: Storage
) -> None:
    folder = make_model(tmp_path / "model")
    adapted = tuned(folder, KINDS[kind], storage)

    adapted.save("tuned", tmp_path)

    reference = plain_tuned(folder, tmp_path, storage)
    with torch.no_grad():
        ours = adapted.causal_lm.eval()(IDS).logits
        theirs = reference.eval()(IDS).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - plain_logits_of_base(adapted)).abs().max() > 0.01  # the adapter matters


@pytest.mark.parametrize("kind", ["by layer", "the last layer", "dora"])
def test_what_is_promised_of_an_adapter_is_what_is_trained(tmp_path: Path, kind: str) -> None:
    folder = make_model(tmp_path / "model")
    adapted = tuned(folder, KINDS[kind])
    trained = sum(weight.numel() for _, weight in adapted.trained_parameters("tuned"))
    assert adapter_parameters(model_shape(str(folder)), KINDS[kind]) == trained


def test_each_layer_has_the_rank_and_the_scale_that_are_written(tmp_path: Path) -> None:
    adapted = tuned(make_model(tmp_path / "model"), KINDS["by layer"])
    found = {
        name: (layer.r["tuned"], layer.scaling["tuned"])
        for name in adapted.linears
        if "o_proj" in name or "q_proj" in name or "down_proj" in name
        for layer in [adapted.causal_lm.get_submodule(name)]
    }
    assert found == {
        "model.layers.0.self_attn.q_proj": (7, 3 / 7),
        "model.layers.1.self_attn.q_proj": (7, 16 / 7),
        "model.layers.0.self_attn.o_proj": (4, 16 / 4),
        "model.layers.1.self_attn.o_proj": (4, 16 / 4),
        "model.layers.0.mlp.down_proj": (2, 16 / 2),
        "model.layers.1.mlp.down_proj": (9, 16 / 9),
    }


def test_layers_without_an_adapter_have_none(tmp_path: Path) -> None:
    adapted = tuned(make_model(tmp_path / "model"), KINDS["the last layer"])
    names = [name for name, _ in adapted.trained_parameters("tuned")]
    assert len(names) == 14
    assert all(".layers.1." in name for name in names)
    with pytest.raises(StudioError, match=r"lora\.layers names layer 2"):
        adapted.add_new("other", LoraConfig(layers="2"), seed=0)


def plain_logits_of_base(adapted: AdaptedModel) -> torch.Tensor:
    adapted.use(None)
    with torch.no_grad():
        logits: torch.Tensor = adapted.causal_lm.eval()(IDS).logits
    adapted.use("tuned")
    return logits


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: str(storage.quantization))
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "gemma2"])
def test_packed_rows_give_the_loss_and_gradients_of_plain_transformers_peft_and_bitsandbytes(
    tmp_path: Path, family: str, storage: Storage
) -> None:
    folder, rows = make_model(tmp_path / "model", family), make_rows(5, longest=20)
    adapted = tuned(folder, storage=storage)
    adapted.save("tuned", tmp_path)
    reference = plain_tuned(folder, tmp_path, storage)
    plain_loss(reference, rows).backward()  # type: ignore[no-untyped-call]

    ours = our_gradients(adapted, rows)

    expected = gradients(reference)
    assert ours.keys() == expected.keys()
    tolerance = 0.05 if storage.quantization == "int8" else 1e-3  # int8 rounds activations by batch
    for name, gradient in ours.items():
        assert (gradient - expected[name]).norm() <= tolerance * expected[name].norm(), name


def test_a_chat_between_two_steps_changes_no_bit_of_the_gradients(tmp_path: Path) -> None:
    folder, rows = make_model(tmp_path / "model"), make_rows(5, longest=20)
    adapted = tuned(folder)
    before = our_gradients(adapted, rows)

    continue_greedily(adapted.causal_lm, [5, 6, 7], max_tokens=8, stop_ids=())
    adapted.use(None)
    continue_greedily(adapted.causal_lm, [5, 6, 7], max_tokens=8, stop_ids=())
    adapted.use("tuned")

    after = our_gradients(adapted, rows)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_replies_with_a_cache_are_those_without(tmp_path: Path) -> None:
    adapted = tuned(make_model(tmp_path / "model", "gemma2"))

    reply = continue_greedily(adapted.causal_lm, [5, 6, 7], max_tokens=12, stop_ids=())

    ids = [5, 6, 7]
    for token in reply:
        with torch.no_grad():
            assert int(adapted.causal_lm(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_adapters_are_read_once_switched_and_taken_off(tmp_path: Path) -> None:
    adapted = tuned(make_model(tmp_path / "model"))
    with torch.no_grad():
        trained = adapted.causal_lm.eval()(IDS).logits
        base = plain_logits_of_base(adapted)
    adapted.save("tuned", tmp_path)

    name = adapted.add_from(tmp_path)

    assert adapted.add_from(tmp_path) == name
    with torch.no_grad():
        torch.testing.assert_close(adapted.causal_lm.eval()(IDS).logits, trained)
        adapted.use(None)
        torch.testing.assert_close(adapted.causal_lm(IDS).logits, base)
    adapted.remove("tuned")
    adapted.remove(name)
    with torch.no_grad():
        torch.testing.assert_close(adapted.causal_lm(IDS).logits, base)


def test_dora_on_int8_needs_a_card_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="needs a card"):
        tuned(make_model(tmp_path / "model"), KINDS["dora"], INT8)


def test_layers_that_the_model_lacks_are_refused_with_those_it_has(tmp_path: Path) -> None:
    adapted = AdaptedModel(loaded(load_base(str(make_model(tmp_path / "model")), NF4, CPU)))

    with pytest.raises(StudioError, match="no linear layer 'c_attn'") as refused:
        adapted.add_new("tuned", LoraConfig(target_modules=("c_attn",)), seed=0)

    assert "q_proj" in refused.value.hint


@pytest.mark.fault(19)
def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:  # R12
    adapted = tuned(make_model(tmp_path / "model"))
    adapted.trained_parameters("tuned")[3][1].data[0, 0] = torch.nan

    with pytest.raises(NonFiniteError, match=r"^The trained base_model.* is no longer finite"):
        adapted.save("tuned", tmp_path)

    assert not (tmp_path / "adapter_model.safetensors").exists()


def test_weights_that_stay_dequantized_are_counted_with_the_room_beside_them(tmp_path: Path) -> None:
    adapted = AdaptedModel(loaded(load_base(str(make_model(tmp_path / "model")), NF4, CPU)))
    adapted.add_new("new", LoraConfig(r=4), seed=0)
    products = [layer for layer in adapted.causal_lm.modules() if isinstance(layer, FusedLoraLinear4bit)]
    for product in products:
        product.base_layer.keep(False)
    assert adapted.dequantized_bytes == 0
    keep_in_one(products)
    kept = {
        weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes()
        for product in products
        for weight in product.base_layer._weight_to_learn(torch.float32)[1]
    }
    assert adapted.dequantized_bytes == sum(kept.values())
    assert adapted.dequantized_bytes > 4 * sum(layer.in_features * layer.out_features for layer in products)
