"""The loss of a micro-batch: what the model makes of the learned positions, against what follows them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from qlora_kernels import learned_cross_entropy, learned_token_losses
from torch import Tensor
from transformers import PreTrainedModel

from qlora_studio.engine.architecture import architecture_of
from qlora_studio.engine.embedding_noise import EmbeddingNoise
from qlora_studio.engine.packed_batch import PackedBatch


def learned_loss(
    model: PreTrainedModel,
    batch: PackedBatch,
    noise: EmbeddingNoise | None = None,
    logits_at_once: int | None = None,
) -> Tensor:
    """float32 []: nats summed over the learned tokens, each times its weight.

    logits_at_once: on a card, while gradients are made; None: as usual
    """
    hidden = learned_hidden_states(model, batch, noise)
    head = Head.of(model)
    return learned_cross_entropy(
        hidden,
        head.weight,
        batch.targets,
        head_bias=head.bias,
        weights=batch.weights,
        logit_scale=head.logit_scale,
        softcap=head.softcap,
        logits_at_once=logits_at_once,
    )


def learned_losses(model: PreTrainedModel, batch: PackedBatch, logits_at_once: int | None = None) -> Tensor:
    """float32 [n]: nats of each learned token, whatever its weight."""
    head = Head.of(model)
    return learned_token_losses(
        learned_hidden_states(model, batch),
        head.weight,
        batch.targets,
        head_bias=head.bias,
        logit_scale=head.logit_scale,
        softcap=head.softcap,
        logits_at_once=logits_at_once,
    )


def learned_hidden_states(
    model: PreTrainedModel, batch: PackedBatch, noise: EmbeddingNoise | None = None
) -> Tensor:
    """[n, hidden_size], after the last norm: what the head sees at the learned positions."""
    hidden = architecture_of(model.config).hidden_states(model, batch, noise)
    return hidden.index_select(0, batch.learned)


@dataclass(frozen=True, eq=False)
class Head:
    """What turns hidden states into logits: softcap(logit_scale * (weight h + bias))."""

    weight: Tensor
    bias: Tensor | None
    logit_scale: float
    softcap: float | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Head:
        """As transformers' forward of the family does it."""
        linear = model.get_output_embeddings()
        config = model.config
        scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
        divisor = float(getattr(config, "logits_scaling", None) or 1.0)  # Granite
        if getattr(config, "scale_decoder_outputs", False):  # T5 whose head is the embedding
            divisor = math.sqrt(config.d_model)
        return cls(
            linear.weight, linear.bias, scale / divisor, getattr(config, "final_logit_softcapping", None)
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [..., vocabulary], rounded as the head's weights are; for few positions."""
        return self._capped(torch.nn.functional.linear(hidden, self.weight, self.bias))

    def logits_of(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """float32 [..., token_ids]: of these alone, computed in float32.

        In bfloat16 many close ones would be rounded to the same number.
        """
        bias = None if self.bias is None else self.bias[token_ids].float()
        return self._capped(torch.nn.functional.linear(hidden.float(), self.weight[token_ids].float(), bias))

    def _capped(self, logits: Tensor) -> Tensor:
        logits = logits.float() * self.logit_scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)
