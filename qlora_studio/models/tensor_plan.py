"""Every tensor that a model of these sizes is made of, by name and shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.errors import StudioError
from qlora_studio.models.families import FAMILIES, Family
from qlora_studio.models.layouts import Layer, Shape, Sizes, Values


@dataclass(frozen=True)
class TensorPlan:
    """What must lie in the files: `layer` once for each of `sizes.layers`, and what stands around them."""

    model_type: str
    sizes: Sizes
    layer: Layer
    layers_prefix: str
    around: dict[str, Shape]  # embedding, learned positions, last norm, head
    embedding: str
    head: str  # the embedding again where they are tied

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Every tensor, the head only where it isn't the embedding."""
        yield from self.around.items()
        for index in range(self.sizes.layers):
            for name, shape in self.layer.tensors().items():
                yield f"{self.layers_prefix}.{index}.{name}", shape

    def linear_names(self) -> Iterator[str]:
        """Full names of the modules that can take an adapter; the head can't."""
        for index in range(self.sizes.layers):
            for linear in self.layer.linears:
                yield f"{self.layers_prefix}.{index}.{linear.name}"

    def shape(self) -> ModelShape:
        """The sizes alone, for the memory promise."""
        size = self.sizes
        linears = tuple(
            (linear.name, linear.out_features, linear.in_features) for linear in self.layer.linears
        )
        in_layer = sum(math.prod(shape) for shape in self.layer.tensors().values())
        in_linears = sum(out_features * in_features for _, out_features, in_features in linears)
        return ModelShape(
            family=self.model_type,
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            layers=size.layers,
            heads=size.heads,
            kv_heads=size.kv_heads,
            head_dim=size.head_dim,
            vocab_size=size.vocab,
            max_position_embeddings=size.positions,
            tied=size.tied,
            linears=linears,
            other_parameters_a_layer=in_layer - in_linears,
            parameters=sum(math.prod(shape) for shape in self.around.values()) + size.layers * in_layer,
        )


def tensor_plan(model_type: str, values: Values) -> TensorPlan:
    """From clean values (`clean_config`). Raises: StudioError where the sizes don't go together."""
    family = FAMILIES[model_type]
    size = _sizes(family, values)
    around: dict[str, Shape] = {family.embedding: (size.vocab, size.hidden)}
    if family.positions:
        around[family.positions] = (size.positions, size.hidden)
    for part in family.final_norm_parts:
        around[f"{family.final_norm}.{part}"] = (size.hidden,)
    if not size.tied:
        around["lm_head.weight"] = (size.vocab, size.hidden)
    if family.head_bias:
        around["lm_head.bias"] = (size.vocab,)
    return TensorPlan(
        model_type=model_type,
        sizes=size,
        layer=family.layer(size, values),
        layers_prefix=family.layers,
        around=around,
        embedding=family.embedding,
        head=family.embedding if size.tied else "lm_head.weight",
    )


def _sizes(family: Family, values: Values) -> Sizes:
    def value(name: str) -> int:
        return int(values[family.keys.get(name, name)])

    hidden, heads = value("hidden_size"), value("num_attention_heads")
    kv_heads = values.get("num_key_value_heads") or heads
    head_dim = values.get("head_dim") or hidden // heads
    if not values.get("head_dim") and hidden % heads:
        raise StudioError(f"hidden_size {hidden} can't be split among num_attention_heads {heads}.")
    if heads % kv_heads:
        raise StudioError(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}.")
    inner = values.get(family.keys.get("intermediate_size", "intermediate_size"))
    return Sizes(
        hidden=hidden,
        intermediate=inner or 4 * hidden,  # GPT-2's n_inner may be null
        layers=value("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=value("vocab_size"),
        positions=value("max_position_embeddings"),
        tied=bool(values["tie_word_embeddings"]),
    )
