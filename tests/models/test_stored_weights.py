"""Every tensor the model needs is there, once, in its shape (S4)."""

from __future__ import annotations

import numpy as np
import pytest

from qlora_studio.errors import StudioError
from qlora_studio.models.clean_config import clean_config
from qlora_studio.models.shapes import folder_plan
from qlora_studio.models.stored_weights import stored_weights

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def refusal(folder) -> str:
    with pytest.raises(StudioError) as caught:
        stored_weights(folder.path, folder.plan)
    return caught.value.message


def test_a_sound_folder_gives_each_tensor_by_the_models_name(llama):
    found = stored_weights(llama.path, llama.plan)
    assert {name: tensor.shape for name, tensor in found.items()} == dict(llama.plan.tensors())


# fault 25
@pytest.mark.fault(25)
@pytest.mark.parametrize("name", [Q_PROJ, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
def test_a_missing_tensor_is_named(llama, name):
    tensors = llama.tensors()
    del tensors[name]
    llama.write_weights(tensors)
    assert f"tensor {name} is missing in model.safetensors" in refusal(llama)


@pytest.mark.fault(25)
def test_a_renamed_tensor_is_named(llama):
    tensors = llama.tensors()
    tensors["model.layers.1.self_attn.qq_proj.weight"] = tensors.pop(Q_PROJ)
    llama.write_weights(tensors)
    assert Q_PROJ in refusal(llama)


@pytest.mark.fault(25)
def test_a_misshapen_tensor_is_named_with_both_shapes(llama):
    llama.write_weights(llama.tensors() | {Q_PROJ: np.zeros((32, 31), np.float32)})
    message = refusal(llama)
    assert Q_PROJ in message
    assert "32 x 31" in message
    assert "32 x 32" in message


@pytest.mark.parametrize(
    "name", ["model.layers.2.self_attn.q_proj.weight", "evil", "model.layers.0.mlp.extra.weight"]
)
def test_a_tensor_without_a_place_is_named(llama, name):
    llama.write_weights(llama.tensors() | {name: np.zeros((2, 2), np.float32)})
    assert f"{name!r} has no place in a llama model with 2 layers" in refusal(llama)


def test_config_and_weights_of_different_vocabularies_are_told(llama):
    llama.write_config(vocab_size=101)
    assert "model.embed_tokens.weight is 100 x 32; config.json makes it 101 x 32" in refusal(llama)


def test_weights_in_eight_bit_are_refused_with_their_type(llama):
    llama.write_weights(llama.tensors() | {Q_PROJ: np.zeros((32, 32), np.int8)})
    assert f"{Q_PROJ} is stored as I8" in refusal(llama)


def test_a_tied_head_need_not_be_stored_and_may_be(llama):
    llama.write_config(tie_word_embeddings=True)
    without = llama.tensors()
    llama.write_weights(without | {"lm_head.weight": without["model.embed_tokens.weight"].copy()})
    assert "lm_head.weight" not in stored_weights(llama.path, llama.plan)
    llama.write_weights(without)
    assert "lm_head.weight" not in stored_weights(llama.path, llama.plan)


def test_buffers_that_older_versions_stored_are_passed_over(llama):
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)}
    llama.write_weights(llama.tensors() | buffer)
    assert buffer.keys().isdisjoint(stored_weights(llama.path, llama.plan))


def test_names_without_the_prefix_of_the_head_model_are_understood(llama):
    bare = {name.removeprefix("model."): tensor for name, tensor in llama.tensors().items()}
    llama.write_weights(bare)
    assert stored_weights(llama.path, llama.plan).keys() == dict(llama.plan.tensors()).keys()


def test_the_head_of_older_gpt_neox_files_is_understood(llama):
    llama.write_config(model_type="gpt_neox", num_key_value_heads=..., rms_norm_eps=...)
    tensors = llama.tensors()
    tensors["embed_out.weight"] = tensors.pop("lm_head.weight")
    llama.write_weights(tensors)
    assert "lm_head.weight" in stored_weights(llama.path, llama.plan)


def test_a_tensor_stored_under_its_old_and_its_new_name_is_refused(llama):
    llama.write_config(model_type="gpt_neox", num_key_value_heads=..., rms_norm_eps=...)
    tensors = llama.tensors()
    llama.write_weights(tensors | {"embed_out.weight": tensors["lm_head.weight"].copy()})
    assert "'lm_head.weight' is stored twice" in refusal(llama)


def test_a_head_of_its_own_is_used_whatever_the_config_says_of_it(llama):
    llama.write_weights()
    llama.write_config(tie_word_embeddings=True)
    clean = clean_config(llama.path)
    assert clean.values["tie_word_embeddings"] is False
    assert [words for words in clean.warnings if "Its head holds other numbers" in words]
    assert "lm_head.weight" in stored_weights(llama.path, folder_plan(llama.path))


def test_a_head_that_is_the_embedding_stays_tied(llama):
    llama.write_config(tie_word_embeddings=True)
    tensors = llama.tensors()
    llama.write_weights(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()})
    clean = clean_config(llama.path)
    assert (clean.values["tie_word_embeddings"], clean.warnings) == (True, ())


def test_an_own_head_beside_names_without_a_prefix_is_found(llama):
    bare = {name.removeprefix("model."): tensor for name, tensor in llama.tensors().items()}
    llama.write_weights(bare)
    llama.write_config(tie_word_embeddings=True)
    assert clean_config(llama.path).values["tie_word_embeddings"] is False
