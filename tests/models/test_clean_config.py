"""A foreign config.json reaches the engine only as numbers and words that were allowed one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.errors import StudioError
from qlora_studio.models.clean_config import clean_config, clean_values
from qlora_studio.models.families import FAMILIES
from qlora_studio.models.tensor_plan import tensor_plan


def refusal(folder) -> StudioError:
    with pytest.raises(StudioError) as caught:
        clean_config(folder.path)
    return caught.value


def test_allowed_fields_come_through_unchanged(llama):
    llama.write_config(rope_theta=1e6, attention_bias=True, hidden_act="gelu")
    values = clean_config(llama.path).values
    assert (values["rope_theta"], values["attention_bias"], values["hidden_act"]) == (1e6, True, "gelu")
    assert values["hidden_size"] == 32


# S2: each of these could make transformers run, fetch or choose something
@pytest.mark.parametrize(
    "name",
    [
        "auto_map",
        "trust_remote_code",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation",
        "custom_pipelines",
        "custom_generate",
        "use_kernels",
        "architectures",
        "_name_or_path",
        "tokenizer_class",
        "name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "output_attentions",
        "pruned_heads",
    ],
)
def test_a_field_that_is_not_allowed_is_dropped(llama, name):
    llama.write_config(**{name: {"AutoModelForCausalLM": "evil.py--Model"}})
    config = clean_config(llama.path)
    assert name not in config.values
    assert "evil" not in json.dumps(config.values)


@pytest.mark.fault(22)
def test_code_in_the_folder_is_told_and_leaves_no_marker(llama, tmp_path):  # S1 S2, fault 22
    marker = tmp_path / "marker"
    (llama.path / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w')")
    llama.write_config(auto_map={"AutoModelForCausalLM": "modeling_evil.Model"})

    warnings = clean_config(llama.path).warnings

    assert warnings == (
        "This model comes with its own code. It was not run. The model is read with our llama code instead.",
    )
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "qwen2_vl", "vision_config": {}}, "only language models"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "encoder and a decoder; of that kind only t5"),
        ({"model_type": "mt5", "is_encoder_decoder": True}, "encoder and a decoder; of that kind only t5"),
        ({"model_type": "evil", "auto_map": {}}, "that code is never run"),
        ({"model_type": "bert"}, "not among the families"),
        ({"model_type": ["llama"]}, "'none'"),
        ({"model_type": "a\x1b[31mb"}, "'none'"),
        ({"model_type": ...}, "'none'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantized (gptq)"),
        ({"quantization_config": "x"}, "already quantized"),
    ],
)
def test_a_model_that_cannot_be_finetuned_says_why(llama, changes, words):
    llama.write_config(**changes)
    error = refusal(llama)
    assert words in error.message
    assert "config.json" in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", -1),
        ("hidden_size", 10**9),
        ("hidden_size", "32"),
        ("hidden_size", True),
        ("hidden_size", 32.5),
        ("hidden_size", None),
        ("hidden_size", ...),
        ("vocab_size", 0),
        ("vocab_size", 10**12),
        ("num_hidden_layers", 10**6),
        ("num_attention_heads", 0),
        ("num_key_value_heads", 10**6),
        ("intermediate_size", []),
        ("max_position_embeddings", 2**40),
        ("max_position_embeddings", ...),
        ("hidden_act", "__import__('os')"),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", 1e9),
        ("attention_dropout", 1.5),
        ("tie_word_embeddings", "yes"),
        ("rope_theta", -1),
        ("rope_scaling", "linear"),
        ("rope_scaling", {"rope_type": "evil"}),
        ("rope_scaling", {"rope_type": ["linear"]}),
        ("rope_scaling", {"rope_type": "linear"}),
        ("rope_scaling", {"rope_type": "linear", "factor": 0.5}),
        ("rope_scaling", {"rope_type": "linear", "factor": "x"}),
        ("rope_scaling", {"rope_type": "longrope", "short_factor": [1] * 5000, "long_factor": [1]}),
        (
            "rope_parameters",
            {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1},
        ),
        ("rope_parameters", {"full_attention": {"rope_type": "evil"}}),
    ],
)
def test_a_field_out_of_bounds_is_named(llama, name, value):
    llama.write_config(**{name: value})
    message = refusal(llama).message
    assert str(llama.path / "config.json") in message
    assert name in message


def test_lists_by_layer_must_have_an_item_for_each_layer(llama):
    llama.write_config(model_type="qwen2", layer_types=["full_attention"] * 3)
    assert "layer_types has 3 items; the model has 2 layers" in refusal(llama).message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 5}, "hidden_size 32 can't be split among num_attention_heads 5"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
    ],
)
def test_sizes_that_do_not_go_together_are_named(llama, changes, words):
    with pytest.raises(StudioError) as caught:
        tensor_plan(*clean_values(llama.config | changes, Path("config.json")))
    assert words in caught.value.message


def test_rope_numbers_of_each_kind_of_layer_come_through_and_nothing_else(llama):
    rope = {"rope_type": "linear", "factor": 8, "rope_theta": 10000, "evil": "x"}
    llama.write_config(rope_parameters={"full_attention": rope, "sliding_attention": None, "more": {}})
    assert clean_config(llama.path).values["rope_parameters"] == {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0}
    }


def test_the_first_name_of_long_rope_is_understood(llama):
    rope = {"type": "su", "short_factor": [1], "long_factor": [2.5]}
    llama.write_config(model_type="phi3", rope_scaling=rope)
    assert clean_config(llama.path).values["rope_scaling"] == {
        "rope_type": "longrope",
        "short_factor": [1.0],
        "long_factor": [2.5],
    }


def test_null_stays_null_where_transformers_would_take_another_default(llama):
    llama.write_config(model_type="mistral", sliding_window=None)
    assert clean_config(llama.path).values["sliding_window"] is None


def test_what_decides_shapes_is_said_even_where_the_file_is_silent(llama):
    llama.write_config(model_type="gemma", tie_word_embeddings=..., num_key_value_heads=...)
    (llama.path / "model.safetensors").unlink()  # it holds a head, which would count
    values = clean_config(llama.path).values
    assert (values["tie_word_embeddings"], values["head_dim"], values["num_key_value_heads"]) == (
        True,
        256,
        16,
    )


def test_token_ids_outside_the_vocabulary_are_left_out_and_told(llama):  # S4
    llama.write_config(pad_token_id=-1, eos_token_id=[2, 3, 100, "x"], bos_token_id=100)
    config = clean_config(llama.path)
    assert (config.values["pad_token_id"], config.values["bos_token_id"]) == (None, None)
    assert config.values["eos_token_id"] == [2, 3]
    assert [warning.split()[0] for warning in config.warnings] == [
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    ]


def test_of_the_generation_config_only_the_stop_ids_count(llama):  # S2
    (llama.path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [7, 100], "custom_generate": "x", "max_length": 10**9})
    )
    config = clean_config(llama.path)
    assert config.stop_ids == (2, 7)
    assert "custom_generate" not in config.values


def test_a_byte_order_mark_before_a_config_is_passed_over(llama):
    file = llama.path / "config.json"
    plain = clean_config(llama.path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert clean_config(llama.path) == plain


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"a": 1, "a": 1}', b"\xff\xfe{}", b"[" * 10**5, b'{"vocab_size": NaN}']
)
def test_a_config_that_is_no_strict_json_is_refused_by_name(llama, text):
    (llama.path / "config.json").write_bytes(text)
    assert "config.json" in refusal(llama).message


def test_an_endless_config_is_refused(llama):
    (llama.path / "config.json").write_bytes(b" " * (3 * 1024**2))
    assert "longer than" in refusal(llama).message


def test_a_missing_config_is_named(llama):
    (llama.path / "config.json").unlink()
    assert "config.json is missing" in refusal(llama).message


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), family=st.sampled_from(sorted(FAMILIES)))
def test_any_config_is_cleaned_or_refused_never_a_crash(llama, data, family):
    said = llama.config | {"model_type": family}
    names = st.sampled_from(sorted(FAMILIES[family].fields))
    said |= data.draw(st.dictionaries(names, _JUNK, max_size=3))
    try:
        tensor_plan(*clean_values(said, Path("config.json")))
    except StudioError as error:
        assert error.message
