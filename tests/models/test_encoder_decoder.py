"""Folders of encoder-decoders: what files may name otherwise, and adapters for them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qlora_studio.errors import StudioError
from qlora_studio.models.adapter import check_adapter
from qlora_studio.models.check import check_model
from qlora_studio.models.clean_config import clean_config, decoder_start
from qlora_studio.models.elsewhere import Exported, ready_lines
from qlora_studio.models.shapes import folder_plan
from qlora_studio.models.stored_weights import stored_weights
from tests.reader.whole_t5 import PAD, whole_t5


@pytest.fixture
def t5(tmp_path):
    return whole_t5(tmp_path / "t5", tie_word_embeddings=True)


def rewritten(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def stored(folder):
    return stored_weights(folder, folder_plan(folder))


@pytest.mark.parametrize(
    "name", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
)
def test_the_embedding_may_stand_under_any_one_of_its_names(t5, name):
    whole = stored(t5)

    renamed = rewritten(t5, lambda tensors: tensors.update({name: tensors.pop("shared.weight")}))

    assert stored(renamed).keys() == whole.keys()


def test_the_embedding_may_stand_there_several_times(t5):
    def again(tensors):
        for stack in ("encoder", "decoder"):
            tensors[f"{stack}.embed_tokens.weight"] = tensors["shared.weight"].copy()
        bias = "layer.1.EncDecAttention.relative_attention_bias.weight"
        tensors[f"decoder.block.0.{bias}"] = np.zeros((8, 4), np.float32)  # as the first T5 files have it

    whole = stored(t5).keys()

    assert stored(rewritten(t5, again)).keys() == whole


def test_a_head_that_is_not_the_embedding_is_refused_where_the_config_says_that_it_is(t5):
    rewritten(t5, lambda tensors: tensors.update({"lm_head.weight": tensors["shared.weight"] + 1}))
    with pytest.raises(StudioError, match="holds other numbers than shared") as refused:
        check_model(str(t5))
    assert "tie_word_embeddings" in refused.value.hint


def test_a_missing_tensor_of_the_decoder_is_named(t5):
    name = "decoder.block.1.layer.1.EncDecAttention.v.weight"
    rewritten(t5, lambda tensors: tensors.pop(name))
    with pytest.raises(StudioError, match=name):
        check_model(str(t5))


def test_the_decoder_starts_with_padding_where_the_config_is_silent(tmp_path):
    silent = whole_t5(tmp_path / "t5", decoder_start_token_id=None)
    assert decoder_start(silent) == PAD


def test_a_config_that_names_no_start_is_refused_with_the_way_on(tmp_path):
    with pytest.raises(StudioError) as refused:
        clean_config(whole_t5(tmp_path / "t5", decoder_start_token_id=None, pad_token_id=None))
    assert "no token that the decoder starts with" in refused.value.message
    assert "decoder_start_token_id" in refused.value.hint


def test_an_adapter_of_a_causal_model_is_refused(t5, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name = "base_model.model.encoder.block.0.layer.0.SelfAttention.q"
    weights = {"lora_A": np.zeros((2, 32), np.float32), "lora_B": np.zeros((32, 2), np.float32)}
    save_file({f"{name}.{part}.weight": tensor for part, tensor in weights.items()},
              adapter / "adapter_model.safetensors")  # fmt: skip
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(said))
    with pytest.raises(StudioError, match="must be SEQ_2_SEQ_LM"):
        check_adapter(adapter, str(t5))

    (adapter / "adapter_config.json").write_text(json.dumps(said | {"task_type": "SEQ_2_SEQ_LM"}))

    assert check_adapter(adapter, str(t5)).peft_config()["task_type"] == "SEQ_2_SEQ_LM"


def test_ready_lines_name_the_class_that_reads_it_and_no_program_that_does_not():
    exported = Exported(folder="out", files=("config.json",), base="b", rank=4, name="n", has_source=True)
    (line,) = ready_lines(exported)
    assert "AutoModelForSeq2SeqLM" in line.text
