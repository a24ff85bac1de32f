"""The sizes of a model: what the memory promise is computed from."""

from __future__ import annotations

import msgspec


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """A causal language model by its sizes alone.

    linears: (name within a layer, out_features, in_features) of the layer's linear weights
    parameters: all of them, counted once where embedding and head are tied
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
