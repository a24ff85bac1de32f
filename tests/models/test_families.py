"""Our table of families against transformers itself: each tensor, each field, each config as it is met."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
)
from transformers.pytorch_utils import Conv1D

from qlora_studio.config.places import resources_folder
from qlora_studio.models.clean_config import clean_config, clean_values
from qlora_studio.models.families import ENCODER_DECODERS, FAMILIES
from qlora_studio.models.shapes import known_plan
from qlora_studio.models.tensor_plan import tensor_plan

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
SMALL_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "vocab_size": 100}
SMALL_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 100}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "llama": [
        {"attention_bias": True, "mlp_bias": True, "head_dim": 16, "tie_word_embeddings": True},
        {"num_key_value_heads": None},
    ],
    "qwen2": [{"head_dim": 16}],
    "qwen3": [{"attention_bias": True}],
    "gemma": [{"attention_bias": True, "head_dim": 16}],
    "gemma3_text": [{"head_dim": 16, "tie_word_embeddings": False}],
    "phi": [{"qk_layernorm": True}],
    "gpt2": [{"n_inner": 40}],
    "gpt_neox": [{"attention_bias": False}],
    "stablelm": [{"use_qkv_bias": True, "qk_layernorm": True}, {"use_parallel_residual": True}],
    "cohere": [{"use_qk_norm": True, "attention_bias": True}],
    "starcoder2": [{"use_bias": False}],
    "t5": [{"feed_forward_proj": "gated-gelu", "num_decoder_layers": 2}, {"num_decoder_layers": None}],
}
# Fields that we drop, as they don't change what is computed. Token ids have rules of their own.
NOT_COMPUTED = {
    "use_cache",
    "pretraining_tp",
    "is_decoder",
    "classifier_dropout",
    "add_cross_attention",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "summary_type",
    "summary_use_proj",
    "summary_activation",
    "summary_proj_to_labels",
    "summary_first_dropout",
}

# As the models' own folders have them, in the words of their time; sizes that don't matter here are small.
AS_MET: dict[str, dict[str, Any]] = {
    "Llama 2": {
        **SMALL,
        "model_type": "llama",
        "pretraining_tp": 1,
        "rope_scaling": None,
        "torch_dtype": "float16",
    },
    "Llama 3.1": {
        **SMALL,
        "model_type": "llama",
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "eos_token_id": [2, 3],
    },
    "Llama with linear scaling": {
        **SMALL,
        "model_type": "llama",
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "Mistral 0.1": {**SMALL, "model_type": "mistral", "sliding_window": 4096, "rope_theta": 10000.0},
    "Mistral 0.3": {**SMALL, "model_type": "mistral", "sliding_window": None, "rope_theta": 1000000.0},
    "Qwen 2.5": {
        **SMALL,
        "model_type": "qwen2",
        "max_window_layers": 1,
        "sliding_window": 32768,
        "use_sliding_window": True,
        "rope_theta": 1000000.0,
    },
    "Qwen 3": {**SMALL, "model_type": "qwen3", "head_dim": 16, "rope_scaling": None, "rope_theta": 1000000},
    "Qwen with YaRN": {
        **SMALL,
        "model_type": "qwen3",
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    },
    "Gemma 1": {
        **SMALL,
        "model_type": "gemma",
        "hidden_act": "gelu",
        "hidden_activation": None,
        "head_dim": 16,
    },
    "Gemma 2": {
        **SMALL,
        "model_type": "gemma2",
        "query_pre_attn_scalar": 224,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 32,
    },
    "Gemma 3": {
        **SMALL,
        "model_type": "gemma3_text",
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window_pattern": 2,
        "attn_logit_softcapping": None,
    },
    "Phi 2": {
        **SMALL,
        "model_type": "phi",
        "partial_rotary_factor": 0.4,
        "rope_scaling": None,
        "embd_pdrop": 0.0,
    },
    "Phi 3 with long context": {
        **SMALL,
        "model_type": "phi3",
        "original_max_position_embeddings": 32,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.5] * 4},
        "sliding_window": 262144,
    },
    "GPT-2": {
        **SMALL_GPT2,
        "model_type": "gpt2",
        "n_ctx": 64,
        "summary_type": "cls_index",
        "embd_pdrop": 0.1,
    },
    "Pythia": {
        **{name: size for name, size in SMALL.items() if name != "num_key_value_heads"},
        "model_type": "gpt_neox",
        "rotary_emb_base": 20000,
        "rotary_pct": 0.5,
        "use_parallel_residual": True,
    },
    "SmolLM 3": {**SMALL, "model_type": "smollm3", "no_rope_layers": [1, 0], "rope_theta": 5000000.0},
    "Granite": {
        **SMALL,
        "model_type": "granite",
        "embedding_multiplier": 12.0,
        "logits_scaling": 8,
        "attention_multiplier": 0.015625,
        "residual_multiplier": 0.22,
    },
    "StableLM": {**SMALL, "model_type": "stablelm", "partial_rotary_factor": 0.25, "use_qkv_bias": True},
    "EXAONE 4": {
        **SMALL,
        "model_type": "exaone4",
        "sliding_window_pattern": "LG",
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "T5": {
        **SMALL_T5,
        "model_type": "t5",
        "is_encoder_decoder": True,
        "dropout_rate": 0.1,
        "n_positions": 512,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "relative_attention_num_buckets": 32,
    },
    "Flan-T5": {
        **SMALL_T5,
        "model_type": "t5",
        "is_encoder_decoder": True,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "num_decoder_layers": 3,
        "n_positions": 512,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "relative_attention_max_distance": 128,
    },
    "StarCoder 2": {**SMALL, "model_type": "starcoder2", "sliding_window": 4096, "norm_epsilon": 1e-5},
}
# What the clean config says otherwise on purpose, or what no computation reads.
_SAID_OTHERWISE = NOT_COMPUTED | {
    "_name_or_path",
    "dtype",
    "n_ctx",
    "architectures",
    "transformers_version",
    "torch_dtype",
}

CASES = [(family, changes) for family in FAMILIES for changes in [{}, *VARIANTS.get(family, [])]]


@pytest.mark.parametrize(("family", "changes"), CASES, ids=lambda value: str(value))
def test_the_plan_names_exactly_the_tensors_of_the_real_model(family, changes):
    said = {**{"gpt2": SMALL_GPT2, "t5": SMALL_T5}.get(family, SMALL), **changes, "model_type": family}
    model_type, values = clean_values(said, Path("config.json"))
    auto_model = AutoModelForSeq2SeqLM if family in ENCODER_DECODERS else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto_model.from_config(AutoConfig.for_model(model_type, **values))
    expected = {name: tuple(weight.shape) for name, weight in model.named_parameters()}

    plan = tensor_plan(model_type, values)

    assert dict(plan.tensors()) == expected
    assert plan.shape().parameters == sum(weight.numel() for weight in model.parameters())
    assert set(plan.linear_names()) == {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and name != "lm_head"
    }
    kept = tuple(model._keep_in_fp32_modules or ())  # transformers quantizes none of them
    assert plan.unquantized_names() == {name for name in plan.linear_names() if name.endswith(kept)}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_field_that_changes_what_is_computed_is_dropped(family):
    base = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    theirs = {field.name for field in dataclasses.fields(CONFIG_MAPPING[family])} - base
    assert theirs - NOT_COMPUTED - FAMILIES[family].fields.keys() == set()


@pytest.mark.parametrize("name", AS_MET)
def test_a_config_as_met_means_to_us_what_it_means_to_transformers(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(AS_MET[name]))
    theirs = AutoConfig.from_pretrained(tmp_path).to_dict()
    theirs.get("rope_parameters", {}).pop("type", None)  # the old name of rope_type, kept beside it

    clean = clean_config(tmp_path)

    ours = AutoConfig.for_model(clean.model_type, **clean.values).to_dict()
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differing - _SAID_OTHERWISE == set()


@pytest.mark.parametrize(
    "file", sorted((resources_folder() / "shapes").glob("*.json")), ids=lambda file: file.stem
)
def test_a_known_shape_has_the_parameters_its_name_says(file):
    billions = known_plan(file.stem).shape().parameters / 1e9
    said = {"phi-3-mini": 3.8, "smollm2-135m": 0.135, "llama-7b": 6.7, "llama-33b": 32.5}
    name_says = said.get(file.stem) or float(file.stem.rpartition("-")[2].removesuffix("b"))
    assert billions == pytest.approx(name_says, rel=0.35 if "2b" in file.stem else 0.25)
