"""What a decoder writes of a source, token by token: the source is read once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from qlora_studio.engine.encoder_decoder import source_mask
from qlora_studio.engine.learned_loss import Head


class SourceContinuation:
    """As `Continuation`, of an encoder-decoder. A prompt is a source and the decoder's first token."""

    runs_ahead = False  # each token is read before the next is begun

    def __init__(self, model: PreTrainedModel, cache_argument: str) -> None:
        """cache_argument: what transformers calls the cache of keys and values"""
        model.eval()
        self._model = model
        self._head = Head.of(model)
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._cache_argument = cache_argument
        self._source: Tensor | None = None
        self._mask: Tensor | None = None
        self.tokens = 0  # of the longest source and what was written

    def extend(self, ids: Sequence[int]) -> Tensor:
        """float32 [vocabulary]: the logits of what follows."""
        return self.extend_each([ids])[0]

    def extend_by(self, token: Tensor) -> Tensor:
        """As `extend`. token: int64 []"""
        return self.extend([int(token)])

    @torch.no_grad()
    def extend_each(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """float32 [texts, vocabulary]: prompts at first, then a token of each."""
        self.tokens += max(map(len, ids))
        if self._source is None:
            self._read([row[:-1] for row in ids])
            ids = [row[-1:] for row in ids]
        hidden = self._model.get_decoder()(
            input_ids=torch.tensor([list(row) for row in ids], device=self._model.device),
            encoder_hidden_states=self._source,
            encoder_attention_mask=self._mask,
            use_cache=True,
            **{self._cache_argument: self._cache},
        ).last_hidden_state
        return self._head.logits(hidden[:, -1])

    def _read(self, sources: Sequence[Sequence[int]]) -> None:
        device, lengths = self._model.device, [len(source) for source in sources]
        padded = [[*source, *[0] * (max(lengths) - len(source))] for source in sources]
        self._mask = source_mask(lengths, device)
        self._source = self._model.get_encoder()(
            input_ids=torch.tensor(padded, device=device), attention_mask=self._mask
        ).last_hidden_state
