"""An encoder that reads the source, and a decoder that looks at it while it writes the target: T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel

from qlora_studio.config.model_shape import LONGEST_SOURCE
from qlora_studio.engine.embedding_noise import EmbeddingNoise
from qlora_studio.engine.packed_batch import PackedBatch
from qlora_studio.models.adapter import SEQ_2_SEQ_LM

# T5 adds a bias to the scores that depends on how far apart two tokens stand: attention of ours has none.
_ATTENTION = "sdpa"


class EncoderDecoder:
    """Two stacks of layers. A row of a batch is two segments: a source, and a target, its `second`."""

    auto_model = AutoModelForSeq2SeqLM
    task_type = SEQ_2_SEQ_LM

    def empty_model(
        self, config: PretrainedConfig, values: Mapping[str, Any], dtype: torch.dtype
    ) -> PreTrainedModel:
        """Encoder and decoder have one embedding; the head is its own where `values` say so."""
        model: PreTrainedModel = self.auto_model.from_config(
            config, dtype=dtype, attn_implementation=_ATTENTION, trust_remote_code=False
        )
        model.set_input_embeddings(model.get_input_embeddings())  # into both stacks, as the very same module
        # transformers' own config forgets it and says True, as encoder and decoder always share theirs.
        model.config.tie_word_embeddings = values["tie_word_embeddings"]
        return model

    def tie(self, model: PreTrainedModel) -> None:
        """Head and embedding, where the folder's config says so."""
        if model.config.tie_word_embeddings:
            model.get_output_embeddings().weight = model.get_input_embeddings().weight

    def tied_names(self, model: PreTrainedModel) -> frozenset[str]:
        """The embedding goes under three names, or four."""
        names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
        return frozenset((*names, *(("lm_head.weight",) if model.config.tie_word_embeddings else ())))

    def stacks(self, model: PreTrainedModel) -> list[tuple[str, nn.ModuleList]]:
        """The encoder's, then the decoder's."""
        return [(f"{name}.block", model.get_submodule(name).block) for name in ("encoder", "decoder")]

    def context(self, config: PretrainedConfig) -> int:
        """Positions are relative, so there is no last one; but memory grows with the square."""
        return LONGEST_SOURCE

    def second_chat_of(self, prompt: int) -> int:
        """The last token of a prompt is the first that the decoder sees."""
        return prompt - 1

    def hidden_states(
        self, model: PreTrainedModel, batch: PackedBatch, noise: EmbeddingNoise | None
    ) -> Tensor:
        """The encoder's states of the sources, the decoder's of the targets.

        Sources and targets are padded, each to the longest of the batch; nobody looks at padding.
        """
        lengths = batch.segments.lengths
        embedded: Tensor = model.get_input_embeddings()(batch.input_ids)
        if noise is not None:
            embedded = noise.added_to(embedded, batch.segments)
        parts = embedded[0].split_with_sizes(lengths)
        sources, targets = parts[::2], parts[1::2]
        mask = source_mask(lengths[::2], embedded.device)
        source = model.get_encoder()(
            inputs_embeds=pad_sequence(list(sources), batch_first=True), attention_mask=mask
        ).last_hidden_state
        target = model.get_decoder()(
            inputs_embeds=pad_sequence(list(targets), batch_first=True),
            encoder_hidden_states=source,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        states = [
            stack[row, : len(part)]
            for row, pair in enumerate(zip(sources, targets, strict=True))
            for stack, part in zip((source, target), pair, strict=True)
        ]
        return torch.cat(states)

    def plain_logits(self, model: PreTrainedModel, ids: Tensor, count: int) -> Tensor:
        """The prompt's last token is the first that the decoder sees."""
        logits: Tensor = model(
            input_ids=ids[:, :-count], decoder_input_ids=ids[:, -count:], use_cache=False
        ).logits[0]
        return logits


def source_mask(lengths: Sequence[int], device: torch.device) -> Tensor:
    """int64 [sources, longest]: 1 where a source has a token, 0 for padding behind it."""
    places = torch.arange(max(lengths), device=device)
    return (places < torch.tensor(lengths, device=device)[:, None]).long()
