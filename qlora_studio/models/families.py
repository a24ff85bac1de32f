"""The model families that can be finetuned: which fields of their config count, and how they are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qlora_studio.models import layouts
from qlora_studio.models.config_fields import (
    ACTIVATIONS,
    LAYER_TYPES,
    MOST_LAYERS,
    Rule,
    count,
    flag,
    layer_pattern,
    list_of,
    only,
    real,
    rope,
)
from qlora_studio.models.layouts import Layer, Shape, Sizes, Values


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers.

    fields:    the keys of config.json that are read, all others are dropped
    assumed:   what transformers takes where the file is silent, for the keys that decide shapes
    keys:      what this family calls a size that others call otherwise
    positions: the tensor of learned positions, where it has one
    renamed:   names in older files -> names now
    decoder:   of an encoder-decoder, whose `layer`, `layers` and `final_norm` are the encoder's
    """

    layer: Callable[[Sizes, Values], Layer]
    fields: Mapping[str, Rule]
    assumed: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    embedding: str = "model.embed_tokens.weight"
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    final_norm_parts: tuple[str, ...] = ("weight",)
    positions: str = ""
    head_bias: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    decoder: Decoder | None = None


@dataclass(frozen=True)
class Decoder:
    """What reads the encoder and writes.

    count:    the key of its number of layers; the encoder's where the file is silent
    beside:   tensors that stand in the first layer of either stack alone
    copies:   names under which files may hold the embedding again
    unused:   tensors of older files that no code reads
    """

    layer: Callable[[Sizes, Values], Layer]
    count: str
    layers: str
    final_norm: str
    beside: Callable[[Sizes, Values], Mapping[str, Shape]]
    copies: tuple[str, ...]
    unused: tuple[str, ...] = ()


_dropout = real(0.0, 0.99)
_epsilon = real(1e-12, 1.0)
_multiplier = real(1e-6, 1e6)
_window = count(1, 2**24)
_heads = count(1, 4096)

_COMMON: dict[str, Rule] = {
    "vocab_size": count(2, 4_000_000),
    "hidden_size": count(2, 131_072),
    "intermediate_size": count(1, 1_048_576),
    "num_hidden_layers": count(1, MOST_LAYERS),
    "num_attention_heads": _heads,
    "max_position_embeddings": count(2, 2**24),
    "hidden_act": only(*ACTIVATIONS),
    "initializer_range": real(0.0, 10.0),
    "attention_dropout": _dropout,
    "tie_word_embeddings": flag,
}
_ROPE: dict[str, Rule] = {
    "rope_theta": real(1.0, 1e12),
    "rope_scaling": rope,
    "rope_parameters": rope,
    "partial_rotary_factor": real(0.0, 1.0),
}
_WINDOWS: dict[str, Rule] = {"sliding_window": _window, "layer_types": list_of(only(*LAYER_TYPES))}
_LLAMA: dict[str, Rule] = {
    **_COMMON,
    **_ROPE,
    "num_key_value_heads": _heads,
    "head_dim": count(1, 8192),
    "rms_norm_eps": _epsilon,
}
_BIASES: dict[str, Rule] = {"attention_bias": flag, "mlp_bias": flag}
_LAYER_NORM: dict[str, Rule] = {
    **{name: rule for name, rule in _LLAMA.items() if name != "rms_norm_eps"},
    "layer_norm_eps": _epsilon,
}
_GEMMA: dict[str, Rule] = {
    **_LLAMA,
    "attention_bias": flag,
    "hidden_activation": only(*ACTIVATIONS),
    "use_bidirectional_attention": only(False),
}
_GEMMA2: dict[str, Rule] = {
    **_GEMMA,
    **_WINDOWS,
    "query_pre_attn_scalar": count(1, 1_000_000),
    "final_logit_softcapping": _multiplier,
    "attn_logit_softcapping": _multiplier,
}
_QWEN: dict[str, Rule] = {
    **_LLAMA,
    **_WINDOWS,
    "use_sliding_window": flag,
    "max_window_layers": count(0, MOST_LAYERS),
}
_UNTIED = {"tie_word_embeddings": False}
_NO_BIAS = {"attention_bias": False, "mlp_bias": False}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(layouts.llama, {**_LLAMA, **_BIASES}, {**_UNTIED, **_NO_BIAS}),
    "mistral": Family(
        layouts.llama, {**_LLAMA, "sliding_window": _window}, {**_UNTIED, "num_key_value_heads": 8}
    ),
    "qwen2": Family(layouts.qwen2, _QWEN, {**_UNTIED, "num_key_value_heads": 32}),
    "qwen3": Family(
        layouts.qwen3,
        {**_QWEN, "attention_bias": flag},
        {**_UNTIED, "attention_bias": False, "num_key_value_heads": 32, "head_dim": 128},
    ),
    "gemma": Family(
        layouts.llama,
        _GEMMA,
        {"tie_word_embeddings": True, "attention_bias": False, "num_key_value_heads": 16, "head_dim": 256},
    ),
    "gemma2": Family(
        layouts.gemma2,
        _GEMMA2,
        {"tie_word_embeddings": True, "attention_bias": False, "num_key_value_heads": 4, "head_dim": 256},
    ),
    "gemma3_text": Family(
        layouts.gemma3,
        {
            **_GEMMA2,
            "sliding_window_pattern": count(1, MOST_LAYERS),
            "rope_local_base_freq": real(1.0, 1e12),
        },
        {"tie_word_embeddings": True, "attention_bias": False, "num_key_value_heads": 4, "head_dim": 256},
    ),
    "phi": Family(
        layouts.phi,
        {**_LAYER_NORM, "resid_pdrop": _dropout, "embd_pdrop": _dropout, "qk_layernorm": flag},
        {**_UNTIED, "qk_layernorm": False},
        final_norm="model.final_layernorm",
        final_norm_parts=("weight", "bias"),
        head_bias=True,
    ),
    "phi3": Family(
        layouts.phi3,
        {
            **_LLAMA,
            "sliding_window": _window,
            "original_max_position_embeddings": count(1, 2**24),
            "resid_pdrop": _dropout,
            "embd_pdrop": _dropout,
        },
        _UNTIED,
    ),
    "gpt2": Family(
        layouts.gpt2,
        {
            **{name: _COMMON[name] for name in ("vocab_size", "initializer_range", "tie_word_embeddings")},
            "n_embd": _COMMON["hidden_size"],
            "n_layer": _COMMON["num_hidden_layers"],
            "n_head": _heads,
            "n_positions": _COMMON["max_position_embeddings"],
            "n_inner": _COMMON["intermediate_size"],
            "activation_function": only(*ACTIVATIONS),
            "resid_pdrop": _dropout,
            "embd_pdrop": _dropout,
            "attn_pdrop": _dropout,
            "layer_norm_epsilon": _epsilon,
            "scale_attn_weights": flag,
            "scale_attn_by_inverse_layer_idx": flag,
            "reorder_and_upcast_attn": flag,
        },
        {"tie_word_embeddings": True, "n_positions": 1024},
        keys={
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
            "intermediate_size": "n_inner",
        },
        embedding="transformer.wte.weight",
        positions="transformer.wpe.weight",
        layers="transformer.h",
        final_norm="transformer.ln_f",
        final_norm_parts=("weight", "bias"),
    ),
    "gpt_neox": Family(
        layouts.gpt_neox,
        {
            **_COMMON,
            **_ROPE,
            "rotary_pct": real(0.0, 1.0),
            "rotary_emb_base": real(1.0, 1e12),
            "hidden_dropout": _dropout,
            "layer_norm_eps": _epsilon,
            "use_parallel_residual": flag,
            "attention_bias": flag,
        },
        {**_UNTIED, "attention_bias": True},
        embedding="gpt_neox.embed_in.weight",
        layers="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        final_norm_parts=("weight", "bias"),
        renamed={"embed_out.weight": "lm_head.weight"},
    ),
    "smollm3": Family(
        layouts.llama,
        {
            **_QWEN,
            **_BIASES,
            "no_rope_layers": list_of(count(0, 1)),
            "no_rope_layer_interval": count(1, MOST_LAYERS),
        },
        {"tie_word_embeddings": True, **_NO_BIAS, "num_key_value_heads": 4},
    ),
    "olmo": Family(
        layouts.olmo,
        {**_LLAMA, "attention_bias": flag, "clip_qkv": _multiplier},
        {**_UNTIED, "attention_bias": False},
        final_norm_parts=(),
    ),
    "olmo2": Family(layouts.olmo2, {**_LLAMA, "attention_bias": flag}, {**_UNTIED, "attention_bias": False}),
    "olmo3": Family(
        layouts.olmo2,
        {**_LLAMA, **_WINDOWS, "attention_bias": flag},
        {**_UNTIED, "attention_bias": False},
    ),
    "granite": Family(
        layouts.llama,
        {
            **_LLAMA,
            **_BIASES,
            "embedding_multiplier": _multiplier,
            "logits_scaling": _multiplier,
            "residual_multiplier": _multiplier,
            "attention_multiplier": _multiplier,
        },
        {**_UNTIED, **_NO_BIAS},
    ),
    "stablelm": Family(
        layouts.stablelm,
        {
            **{name: rule for name, rule in _LAYER_NORM.items() if name != "head_dim"},
            "use_qkv_bias": flag,
            "qk_layernorm": flag,
            "use_parallel_residual": flag,
            "hidden_dropout": _dropout,
        },
        {
            **_UNTIED,
            "num_key_value_heads": 32,
            "use_qkv_bias": False,
            "qk_layernorm": False,
            "use_parallel_residual": False,
        },
        final_norm_parts=("weight", "bias"),
    ),
    "cohere": Family(
        layouts.cohere,
        {**_LAYER_NORM, "attention_bias": flag, "logit_scale": _multiplier, "use_qk_norm": flag},
        {"tie_word_embeddings": True, "attention_bias": False, "use_qk_norm": False},
    ),
    "cohere2": Family(
        layouts.cohere,
        {
            **_LAYER_NORM,
            **_WINDOWS,
            "attention_bias": flag,
            "logit_scale": _multiplier,
            "sliding_window_pattern": count(1, MOST_LAYERS),
        },
        {"tie_word_embeddings": True, "attention_bias": False},
    ),
    "exaone4": Family(
        layouts.exaone4,
        {**_LLAMA, **_WINDOWS, "sliding_window_pattern": layer_pattern},
        {**_UNTIED, "num_key_value_heads": 32},
    ),
    "starcoder2": Family(
        layouts.starcoder2,
        {
            **{name: rule for name, rule in _LAYER_NORM.items() if name != "layer_norm_eps"},
            "norm_epsilon": _epsilon,
            "sliding_window": _window,
            "residual_dropout": _dropout,
            "embedding_dropout": _dropout,
            "use_bias": flag,
        },
        {"tie_word_embeddings": True, "num_key_value_heads": 2, "use_bias": True},
        final_norm_parts=("weight", "bias"),
    ),
    "t5": Family(
        layouts.t5_encoder,
        {
            "vocab_size": _COMMON["vocab_size"],
            "tie_word_embeddings": flag,
            "scale_decoder_outputs": flag,
            "d_model": _COMMON["hidden_size"],
            "d_kv": count(1, 8192),
            "d_ff": _COMMON["intermediate_size"],
            "num_layers": _COMMON["num_hidden_layers"],
            "num_decoder_layers": _COMMON["num_hidden_layers"],
            "num_heads": _heads,
            "n_positions": _COMMON["max_position_embeddings"],
            "relative_attention_num_buckets": count(2, 65_536),
            "relative_attention_max_distance": count(2, 2**24),
            "dropout_rate": _dropout,
            "layer_norm_epsilon": _epsilon,
            "initializer_factor": real(0.0, 10.0),
            "feed_forward_proj": only(
                "relu", "gelu", "gelu_new", "silu", "gated-gelu", "gated-relu", "gated-silu"
            ),
            "is_encoder_decoder": only(True),
        },
        {
            "tie_word_embeddings": True,
            "d_kv": 64,
            "n_positions": 512,
            "relative_attention_num_buckets": 32,
            "feed_forward_proj": "relu",
        },
        keys={
            "hidden_size": "d_model",
            "num_hidden_layers": "num_layers",
            "num_attention_heads": "num_heads",
            "max_position_embeddings": "n_positions",
            "intermediate_size": "d_ff",
            "head_dim": "d_kv",
        },
        embedding="shared.weight",
        layers="encoder.block",
        final_norm="encoder.final_layer_norm",
        decoder=Decoder(
            layouts.t5_decoder,
            count="num_decoder_layers",
            layers="decoder.block",
            final_norm="decoder.final_layer_norm",
            beside=layouts.t5_positions,
            copies=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
            unused=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
        ),
    ),
}

ENCODER_DECODERS = frozenset(name for name, family in FAMILIES.items() if family.decoder is not None)
