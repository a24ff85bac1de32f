"""The tensors of one layer, by architecture: its linear weights, and all that stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """What every architecture has, whatever its config calls it."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    positions: int
    tied: bool


@dataclass(frozen=True)
class Linear:
    """A linear weight of a layer.

    transposed: stored [in_features, out_features] (GPT-2's Conv1D)
    quantized:  where linear layers are; else it stays as it is, as transformers has it with any quantization
    """

    name: str
    out_features: int
    in_features: int
    bias: bool = False
    transposed: bool = False
    quantized: bool = True

    @property
    def stored_shape(self) -> Shape:
        """As it lies in the file."""
        shape = (self.out_features, self.in_features)
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True)
class Layer:
    """One layer of a stack. `others`: norms and the like, name -> shape, biases of linears not among them."""

    linears: tuple[Linear, ...]
    others: Mapping[str, Shape] = field(default_factory=dict)

    def tensors(self) -> dict[str, Shape]:
        """Every tensor of the layer, name within the layer -> shape as stored."""
        found: dict[str, Shape] = {}
        for linear in self.linears:
            found[f"{linear.name}.weight"] = linear.stored_shape
            if linear.bias:
                found[f"{linear.name}.bias"] = (linear.out_features,)
        return found | dict(self.others)


def llama(size: Sizes, values: Values) -> Layer:
    """Llama and what is built like it: two RMS norms, grouped heads, a gated MLP."""
    return Layer(
        (*_attention(size, values), *_gated_mlp(size, values)),
        _norms(size, "input_layernorm", "post_attention_layernorm"),
    )


def qwen2(size: Sizes, values: Values) -> Layer:
    """Llama with a bias on q, k and v."""
    linears = (*_attention(size, values, qkv_bias=True, out_bias=False), *_gated_mlp(size, values))
    return Layer(linears, _norms(size, "input_layernorm", "post_attention_layernorm"))


def qwen3(size: Sizes, values: Values) -> Layer:
    """Llama with a norm on each head of q and k."""
    layer = llama(size, values)
    return Layer(layer.linears, {**layer.others, **_head_norms(size)})


def gemma2(size: Sizes, values: Values) -> Layer:
    """Gemma 2: norms before and after both halves."""
    norms = ("input_layernorm", "post_attention_layernorm")
    more = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    return Layer((*_attention(size, values), *_gated_mlp(size, values)), _norms(size, *norms, *more))


def gemma3(size: Sizes, values: Values) -> Layer:
    """Gemma 2 with a norm on each head of q and k."""
    layer = gemma2(size, values)
    return Layer(layer.linears, {**layer.others, **_head_norms(size)})


def olmo(size: Sizes, values: Values) -> Layer:
    """Llama whose norms have no weights."""
    return Layer(llama(size, values).linears)


def olmo2(size: Sizes, values: Values) -> Layer:
    """OLMo 2 and 3: norms after both halves, and over all heads of q and k together."""
    q_and_k = {
        "self_attn.q_norm.weight": (size.heads * size.head_dim,),
        "self_attn.k_norm.weight": (size.kv_heads * size.head_dim,),
    }
    norms = _norms(size, "post_attention_layernorm", "post_feedforward_layernorm")
    return Layer(llama(size, values).linears, {**norms, **q_and_k})


def exaone4(size: Sizes, values: Values) -> Layer:
    """EXAONE 4: norms after both halves, and on each head of q and k."""
    norms = _norms(size, "post_attention_layernorm", "post_feedforward_layernorm")
    return Layer(llama(size, values).linears, {**norms, **_head_norms(size)})


def stablelm(size: Sizes, values: Values) -> Layer:
    """StableLM: layer norms with biases; in parallel blocks there is one."""
    names = ["input_layernorm"]
    if not values["use_parallel_residual"]:
        names.append("post_attention_layernorm")
    others = _norms(size, *names, bias=True)
    if values["qk_layernorm"]:
        for part, heads in (("q", size.heads), ("k", size.kv_heads)):
            for head in range(heads):
                others[f"self_attn.{part}_layernorm.norms.{head}.weight"] = (size.head_dim,)
    attention = _attention(size, values, qkv_bias=values["use_qkv_bias"], out_bias=False)
    return Layer((*attention, *_gated_mlp(size, values)), others)


def cohere(size: Sizes, values: Values) -> Layer:
    """Command R: attention and MLP side by side under one norm."""
    others = _norms(size, "input_layernorm")
    if values.get("use_qk_norm"):
        others["self_attn.q_norm.weight"] = (size.heads, size.head_dim)
        others["self_attn.k_norm.weight"] = (size.kv_heads, size.head_dim)
    return Layer(llama(size, values).linears, others)


def starcoder2(size: Sizes, values: Values) -> Layer:
    """StarCoder2: layer norms with biases, an MLP without a gate."""
    bias = values["use_bias"]
    linears = (
        *_attention(size, values, qkv_bias=bias, out_bias=bias),
        Linear("mlp.c_fc", size.intermediate, size.hidden, bias),
        Linear("mlp.c_proj", size.hidden, size.intermediate, bias),
    )
    return Layer(linears, _norms(size, "input_layernorm", "post_attention_layernorm", bias=True))


def phi(size: Sizes, values: Values) -> Layer:
    """Phi 1 and 2: attention and MLP side by side, biases everywhere."""
    q, k, v, out = _attention(size, values, qkv_bias=True, out_bias=True)
    linears = (
        q,
        k,
        v,
        Linear("self_attn.dense", out.out_features, out.in_features, bias=True),
        Linear("mlp.fc1", size.intermediate, size.hidden, bias=True),
        Linear("mlp.fc2", size.hidden, size.intermediate, bias=True),
    )
    others = _norms(size, "input_layernorm", bias=True)
    if values["qk_layernorm"]:
        for part in ("q", "k"):
            others[f"self_attn.{part}_layernorm.weight"] = (size.head_dim,)
            others[f"self_attn.{part}_layernorm.bias"] = (size.head_dim,)
    return Layer(linears, others)


def phi3(size: Sizes, values: Values) -> Layer:
    """Phi 3 and 4: Llama with q, k, v in one weight, and gate and up in one."""
    query, key = size.heads * size.head_dim, size.kv_heads * size.head_dim
    linears = (
        Linear("self_attn.qkv_proj", query + 2 * key, size.hidden),
        Linear("self_attn.o_proj", size.hidden, query),
        Linear("mlp.gate_up_proj", 2 * size.intermediate, size.hidden),
        Linear("mlp.down_proj", size.hidden, size.intermediate),
    )
    return Layer(linears, _norms(size, "input_layernorm", "post_attention_layernorm"))


def gpt2(size: Sizes, values: Values) -> Layer:
    """GPT-2: weights stored the other way round, learned positions."""
    linears = (
        Linear("attn.c_attn", 3 * size.hidden, size.hidden, bias=True, transposed=True),
        Linear("attn.c_proj", size.hidden, size.hidden, bias=True, transposed=True),
        Linear("mlp.c_fc", size.intermediate, size.hidden, bias=True, transposed=True),
        Linear("mlp.c_proj", size.hidden, size.intermediate, bias=True, transposed=True),
    )
    return Layer(linears, _norms(size, "ln_1", "ln_2", bias=True))


def gpt_neox(size: Sizes, values: Values) -> Layer:
    """GPT-NeoX and Pythia: q, k, v in one weight."""
    bias = values["attention_bias"]
    linears = (
        Linear("attention.query_key_value", 3 * size.hidden, size.hidden, bias),
        Linear("attention.dense", size.hidden, size.hidden, bias),
        Linear("mlp.dense_h_to_4h", size.intermediate, size.hidden, bias=True),
        Linear("mlp.dense_4h_to_h", size.hidden, size.intermediate, bias=True),
    )
    return Layer(linears, _norms(size, "input_layernorm", "post_attention_layernorm", bias=True))


def t5_encoder(size: Sizes, values: Values) -> Layer:
    """T5: every token sees every other one, then an MLP; each under an RMS norm."""
    return _t5_layer(size, values, "SelfAttention")


def t5_decoder(size: Sizes, values: Values) -> Layer:
    """T5: sees what is written so far, then the encoder's source, then an MLP."""
    return _t5_layer(size, values, "SelfAttention", "EncDecAttention")


def t5_positions(size: Sizes, values: Values) -> dict[str, Shape]:
    """How far apart two tokens stand is a bias on their score, learned once for all layers of a stack."""
    bias = (values["relative_attention_num_buckets"], size.heads)
    return {
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": bias
        for stack in ("encoder", "decoder")
    }


def _t5_layer(size: Sizes, values: Values, *attentions: str) -> Layer:
    inner, last = size.heads * size.head_dim, len(attentions)
    gated = values["feed_forward_proj"].startswith("gated-")
    linears = [
        Linear(f"layer.{number}.{name}.{part}", inner, size.hidden)
        if part != "o"
        else Linear(f"layer.{number}.{name}.o", size.hidden, inner)
        for number, name in enumerate(attentions)
        for part in "qkvo"
    ]
    mlp = f"layer.{last}.DenseReluDense"
    linears += [
        *(Linear(f"{mlp}.{part}", size.intermediate, size.hidden) for part in _t5_inputs(gated)),
        Linear(f"{mlp}.wo", size.hidden, size.intermediate, quantized=False),
    ]
    return Layer(tuple(linears), _norms(size, *(f"layer.{number}.layer_norm" for number in range(last + 1))))


def _t5_inputs(gated: bool) -> tuple[str, ...]:
    return ("wi_0", "wi_1") if gated else ("wi",)


def _attention(
    size: Sizes, values: Values, qkv_bias: bool | None = None, out_bias: bool | None = None
) -> tuple[Linear, Linear, Linear, Linear]:
    said = bool(values.get("attention_bias", False))
    inner_bias = said if qkv_bias is None else qkv_bias
    outer_bias = said if out_bias is None else out_bias
    query, key = size.heads * size.head_dim, size.kv_heads * size.head_dim
    return (
        Linear("self_attn.q_proj", query, size.hidden, inner_bias),
        Linear("self_attn.k_proj", key, size.hidden, inner_bias),
        Linear("self_attn.v_proj", key, size.hidden, inner_bias),
        Linear("self_attn.o_proj", size.hidden, query, outer_bias),
    )


def _gated_mlp(size: Sizes, values: Values) -> tuple[Linear, Linear, Linear]:
    bias = bool(values.get("mlp_bias", False))
    return (
        Linear("mlp.gate_proj", size.intermediate, size.hidden, bias),
        Linear("mlp.up_proj", size.intermediate, size.hidden, bias),
        Linear("mlp.down_proj", size.hidden, size.intermediate, bias),
    )


def _norms(size: Sizes, *names: str, bias: bool = False) -> dict[str, Shape]:
    kinds = ("weight", "bias") if bias else ("weight",)
    return {f"{name}.{kind}": (size.hidden,) for name in names for kind in kinds}


def _head_norms(size: Sizes) -> dict[str, Shape]:
    return {f"self_attn.{part}_norm.weight": (size.head_dim,) for part in ("q", "k")}
