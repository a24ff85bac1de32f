"""Every tensor that a model of these sizes is made of, by name and shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from qlora_studio.config.model_shape import ModelShape, StackShape
from qlora_studio.errors import StudioError
from qlora_studio.models.families import FAMILIES, Family
from qlora_studio.models.layouts import Layer, Linear, Shape, Sizes, Values

# As the families have it; what an attention drops is looked at where layers are compiled.
_DROPOUTS = (
    "resid_pdrop",
    "embd_pdrop",
    "hidden_dropout",
    "residual_dropout",
    "embedding_dropout",
    "dropout_rate",
)


@dataclass(frozen=True)
class TensorPlan:
    """What must lie in the files: the layers of each stack, and what stands around them.

    drops, rotations: as of a `ModelShape`
    copies, unused: names that files may have beside: of the embedding again, and of what no code reads
    """

    model_type: str
    sizes: Sizes
    stacks: tuple[Stack, ...]  # one; of an encoder-decoder two, the encoder's first
    around: dict[str, Shape]  # embedding, learned positions, last norm, head
    embedding: str
    head: str  # the embedding again where they are tied
    drops: bool = False
    rotations: frozenset[str] = frozenset()
    copies: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Every tensor, the head only where it isn't the embedding."""
        yield from self.around.items()
        for stack in self.stacks:
            for index in range(stack.layers):
                for name, shape in stack.layer.tensors().items():
                    yield f"{stack.prefix}.{index}.{name}", shape

    def linears(self) -> Iterator[tuple[str, Linear]]:
        """Full name of each module that can take an adapter, and what it is; the head can't."""
        for stack in self.stacks:
            for index in range(stack.layers):
                for linear in stack.layer.linears:
                    yield f"{stack.prefix}.{index}.{linear.name}", linear

    def linear_names(self) -> Iterator[str]:
        """Full names of the modules that can take an adapter."""
        for name, _ in self.linears():
            yield name

    def unquantized_names(self) -> frozenset[str]:
        """Of those among them that are stored as they are, whatever becomes of the others."""
        return frozenset(name for name, linear in self.linears() if not linear.quantized)

    def shape(self) -> ModelShape:
        """The sizes alone, for the memory promise."""
        size = self.sizes
        first, *others = (stack.shape() for stack in self.stacks)
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
            linears=first.linears,
            other_parameters_a_layer=first.other_parameters_a_layer,
            parameters=sum(math.prod(shape) for _, shape in self.tensors()),
            unquantized=first.unquantized,
            drops=self.drops,
            rotations=self.rotations,
            decoder=others[0] if others else None,
        )


@dataclass(frozen=True)
class Stack:
    """Layers that follow one another, all alike. prefix: of their names"""

    prefix: str
    layers: int
    layer: Layer

    def shape(self) -> StackShape:
        """The sizes alone."""
        linears = tuple(
            (linear.name, linear.out_features, linear.in_features) for linear in self.layer.linears
        )
        in_layer = sum(math.prod(shape) for shape in self.layer.tensors().values())
        in_linears = sum(out_features * in_features for _, out_features, in_features in linears)
        return StackShape(
            layers=self.layers,
            linears=linears,
            other_parameters_a_layer=in_layer - in_linears,
            unquantized=tuple(linear.name for linear in self.layer.linears if not linear.quantized),
        )


def tensor_plan(model_type: str, values: Values) -> TensorPlan:
    """From clean values (`clean_config`). Raises: StudioError where the sizes don't go together."""
    family = FAMILIES[model_type]
    size = _sizes(family, values)
    around: dict[str, Shape] = {family.embedding: (size.vocab, size.hidden)}
    if family.positions:
        around[family.positions] = (size.positions, size.hidden)
    stacks = [Stack(family.layers, size.layers, family.layer(size, values))]
    norms = [family.final_norm]
    decoder = family.decoder
    if decoder is not None:
        layers = int(values.get(decoder.count) or size.layers)
        stacks.append(Stack(decoder.layers, layers, decoder.layer(size, values)))
        norms.append(decoder.final_norm)
        around |= decoder.beside(size, values)
    for norm in norms:
        for part in family.final_norm_parts:
            around[f"{norm}.{part}"] = (size.hidden,)
    if not size.tied:
        around["lm_head.weight"] = (size.vocab, size.hidden)
    if family.head_bias:
        around["lm_head.bias"] = (size.vocab,)
    return TensorPlan(
        model_type=model_type,
        sizes=size,
        stacks=tuple(stacks),
        around=around,
        embedding=family.embedding,
        head=family.embedding if size.tied else "lm_head.weight",
        drops=any(values.get(name) for name in _DROPOUTS),
        rotations=_rotations(values),
        copies=decoder.copies if decoder is not None else (),
        unused=decoder.unused if decoder is not None else (),
    )


def _rotations(values: Values) -> frozenset[str]:
    """Of the layers of all kinds; a config names it in one of two places, old or new."""
    found: set[str] = set()
    for place in ("rope_scaling", "rope_parameters"):
        said = values.get(place) or {}
        of_kinds = [said] if "rope_type" in said else said.values()
        found |= {kind["rope_type"] for kind in of_kinds if isinstance(kind, dict) and "rope_type" in kind}
    return frozenset(found)


def _sizes(family: Family, values: Values) -> Sizes:
    def value(name: str) -> int:
        return int(values[family.keys.get(name, name)])

    hidden, heads = value("hidden_size"), value("num_attention_heads")
    kv_heads = values.get("num_key_value_heads") or heads
    said_dim = values.get(family.keys.get("head_dim", "head_dim"))
    head_dim = said_dim or hidden // heads
    if not said_dim and hidden % heads:
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
