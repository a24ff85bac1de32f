"""The two kinds of model: one that goes on with a text, and an encoder that is read by a decoder.

All that differs between them stands in a class for each: how a model is built, which layers it has, what it
makes of a batch. How a text goes on token by token is in `continuation.py` and `source_continuation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from qlora_studio.engine import attention
from qlora_studio.engine.embedding_noise import EmbeddingNoise
from qlora_studio.engine.encoder_decoder import EncoderDecoder
from qlora_studio.engine.packed_batch import PackedBatch
from qlora_studio.models.adapter import CAUSAL_LM


class Architecture(Protocol):
    """What must be known of a kind of model.

    auto_model: transformers' class that builds and reads it
    task_type:  peft's word for it
    """

    auto_model: Any
    task_type: str

    def empty_model(
        self, config: PretrainedConfig, values: Mapping[str, Any], dtype: torch.dtype
    ) -> PreTrainedModel:
        """The model's code, made where no weight takes memory. values: as `clean_config` has them."""

    def tie(self, model: PreTrainedModel) -> None:
        """Weights that are one and the same become so, once they are there."""

    def tied_names(self, model: PreTrainedModel) -> frozenset[str]:
        """Weights that come with others."""

    def stacks(self, model: PreTrainedModel) -> list[tuple[str, nn.ModuleList]]:
        """Layers that follow one another, and what their names begin with."""

    def context(self, config: PretrainedConfig) -> int:
        """Tokens that a chat may have."""

    def second_chat_of(self, prompt: int) -> int:
        """`TokenizedRow.second` of a row that begins with a prompt of so many tokens."""

    def hidden_states(
        self, model: PreTrainedModel, batch: PackedBatch, noise: EmbeddingNoise | None
    ) -> Tensor:
        """[t, hidden_size], after the last norm, of every position of the batch."""

    def plain_logits(self, model: PreTrainedModel, ids: Tensor, count: int) -> Tensor:
        """[count, vocabulary] of the last ones, by a model that is transformers' alone.

        ids: int64 [1, t], a prompt and the first `count` - 1 tokens of its reply
        """


class Causal:
    """One stack of layers. Chats of a batch stand in one sequence, and don't see each other."""

    auto_model = AutoModelForCausalLM
    task_type = CAUSAL_LM

    def empty_model(
        self, config: PretrainedConfig, values: Mapping[str, Any], dtype: torch.dtype
    ) -> PreTrainedModel:
        """With attention of ours."""
        attention.register()
        model: PreTrainedModel = self.auto_model.from_config(
            config, dtype=dtype, attn_implementation=attention.IMPLEMENTATION, trust_remote_code=False
        )
        return model

    def tie(self, model: PreTrainedModel) -> None:
        """Head and embedding, where the config says so."""
        model.tie_weights()

    def tied_names(self, model: PreTrainedModel) -> frozenset[str]:
        """A tied head comes with the embedding."""
        return frozenset({"lm_head.weight"} if model.config.tie_word_embeddings else ())

    def stacks(self, model: PreTrainedModel) -> list[tuple[str, nn.ModuleList]]:
        """The one, wherever the family has it."""
        count = model.config.num_hidden_layers
        found = next(
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == count
        )
        return [found]

    def context(self, config: PretrainedConfig) -> int:
        """Those it was made for."""
        return int(config.max_position_embeddings)

    def second_chat_of(self, prompt: int) -> int:
        """There is none."""
        return 0

    def hidden_states(
        self, model: PreTrainedModel, batch: PackedBatch, noise: EmbeddingNoise | None
    ) -> Tensor:
        """In one pass."""
        inputs: dict[str, Tensor] = {"input_ids": batch.input_ids}
        if noise is not None:
            embedded = model.get_input_embeddings()(batch.input_ids)
            inputs = {"inputs_embeds": noise.added_to(embedded, batch.segments)}
        elif batch.longest is not None and torch.is_grad_enabled():
            # A first layer whose input needs no gradient would be compiled apart from the others.
            inputs = {"inputs_embeds": model.get_input_embeddings()(batch.input_ids).requires_grad_()}
        output = model.base_model(
            **inputs,
            position_ids=batch.position_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden[0]

    def plain_logits(self, model: PreTrainedModel, ids: Tensor, count: int) -> Tensor:
        """In one pass."""
        logits: Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=count).logits[0]
        return logits


_CAUSAL, _ENCODER_DECODER = Causal(), EncoderDecoder()


def architecture_of(config: PretrainedConfig) -> Architecture:
    """By a model's config."""
    return _ENCODER_DECODER if config.is_encoder_decoder else _CAUSAL
