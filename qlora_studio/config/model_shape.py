"""The sizes of a model: what the memory promise is computed from."""

from __future__ import annotations

import msgspec

LONGEST_SOURCE = 4096  # tokens that a chat with an encoder-decoder may have; its positions have no last one


class StackShape(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that follow one another, all alike.

    linears:     (name within a layer, out_features, in_features) of the layer's linear weights
    unquantized: names of those that are stored as they are whatever becomes of the others
    """

    layers: int
    linears: tuple[tuple[str, int, int], ...]
    other_parameters_a_layer: int  # norms and biases
    unquantized: tuple[str, ...] = ()

    @property
    def quantized(self) -> tuple[tuple[str, int, int], ...]:
        """Those of `linears` that are quantized where the base is to be."""
        return tuple(linear for linear in self.linears if linear[0] not in self.unquantized)


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """A language model by its sizes alone.

    linears: (name within a layer, out_features, in_features) of the layer's linear weights
    parameters: all of them, counted once where embedding and head are tied
    unquantized: as of a `StackShape`
    drops: whether some of the hidden states are dropped while it learns, as config.json asks
    rotations: how positions become angles, by transformers' `rope_type`: of all layers, or of each kind
    decoder: of an encoder-decoder, whose `layers`, `linears` and `unquantized` are the encoder's
    """

    family: str  # transformers' model_type
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tied: bool  # the head is the embedding
    linears: tuple[tuple[str, int, int], ...]
    other_parameters_a_layer: int  # norms and biases
    parameters: int
    unquantized: tuple[str, ...] = ()
    drops: bool = False
    rotations: frozenset[str] = frozenset()
    decoder: StackShape | None = None

    @property
    def stacks(self) -> tuple[StackShape, ...]:
        """All its layers: one stack, or the encoder's and the decoder's."""
        first = StackShape(
            layers=self.layers,
            linears=self.linears,
            other_parameters_a_layer=self.other_parameters_a_layer,
            unquantized=self.unquantized,
        )
        return (first,) if self.decoder is None else (first, self.decoder)

    @property
    def all_linears(self) -> tuple[tuple[str, int, int], ...]:
        """Of a layer of each stack."""
        return tuple(linear for stack in self.stacks for linear in stack.linears)

    @property
    def context(self) -> int:
        """Tokens that a chat may have."""
        return self.max_position_embeddings if self.decoder is None else LONGEST_SOURCE

    @property
    def all_layers(self) -> int:
        """Of every stack together."""
        return sum(stack.layers for stack in self.stacks)
