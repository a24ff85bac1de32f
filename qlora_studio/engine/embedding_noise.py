"""NEFTune: noise on the embeddings while training, arXiv:2310.05914."""

from __future__ import annotations

import torch
from torch import Tensor

from qlora_studio.engine.attention import Segments


class EmbeddingNoise:
    """Uniform noise of width alpha / sqrt(tokens of the row * hidden_size), from a generator of its own."""

    def __init__(self, alpha: float, seed: int, device: torch.device) -> None:
        self._alpha = alpha
        self.random = torch.Generator(device).manual_seed(seed)

    def added_to(self, embedded: Tensor, segments: Segments) -> Tensor:
        """embedded: [1, t, hidden_size]; each packed row has noise for its own length."""
        lengths = torch.tensor(segments.lengths, device=embedded.device)
        per_token = lengths.repeat_interleave(lengths).to(torch.float32)
        width = self._alpha / torch.sqrt(per_token * embedded.shape[-1])
        noise = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1, generator=self.random)
        return embedded + (noise * width[None, :, None]).to(embedded.dtype)
