"""A token's way through a model, recorded once on a card and repeated without Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from qlora_kernels.scratch import held_scratch
from torch import Tensor
from transformers import PreTrainedModel

from qlora_studio.engine.fixed_cache import FixedCache, Looking
from qlora_studio.engine.fused_gates import FusedGates
from qlora_studio.engine.fused_norms import FusedNorms
from qlora_studio.engine.fused_rotation import FusedRotation
from qlora_studio.engine.shared_inputs import SharedInputs

_PLAIN_STEPS = 2  # before the recording: what is compiled or allocated at a first call is there then


class RecordedStep:
    """A text's next token in, logits of the one after it out; or those of several texts.

    Its first steps are made as they are written; on a card the third is recorded. Off a card none is.
    """

    def __init__(self, model: PreTrainedModel, cache: FixedCache, cache_argument: str) -> None:
        self._model = model
        self._cache = cache
        self._past: Mapping[str, Any] = {cache_argument: cache}
        self._tokens = torch.zeros(cache.texts, dtype=torch.int64, device=model.device)
        self._at = torch.zeros(cache.texts, dtype=torch.int64, device=model.device)
        self._starts = self._starts_in_cache()
        self._fused = (FusedNorms(model), FusedRotation(model), FusedGates(model))
        self._shared = SharedInputs(model)
        self._made = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._written: Tensor | None = None
        self._logits = torch.empty(0)

    @property
    def is_recorded(self) -> bool:
        """Whether the next step runs without the model's Python."""
        return self._graph is not None

    def logits_after(self, token: int | Tensor) -> Tensor:
        """float32 [vocabulary], until the next call. The token is in the cache afterwards.

        token: or int64 [] on the device, where it may still be in the making
        """
        place = self._cache.place
        logits = self.logits_after_each([token], [place.tokens])[0]
        place.tokens += 1
        return logits

    def logits_after_each(self, tokens: Sequence[int | Tensor], at: Sequence[int]) -> Tensor:
        """float32 [texts, vocabulary], as `logits_after`. at: the place of each in its text."""
        place = self._cache.place
        for text, (token, count) in enumerate(zip(tokens, at, strict=True)):
            self._tokens[text].fill_(token)
            self._at[text].fill_(count)
        try:
            if self._graph is None and self._made >= _PLAIN_STEPS and self._at.is_cuda:
                self._record()
            if self._graph is not None:
                self._graph.replay()
            else:
                self._logits = self._step()
        finally:
            place.at = None
        self._made += 1
        return self._logits

    def forget(self) -> None:
        """What was recorded: the cache lies elsewhere now."""
        self._graph, self._made, self._starts = None, 0, self._starts_in_cache()
        self._written = None

    def _starts_in_cache(self) -> Tensor:
        starts = torch.arange(self._cache.texts + 1, dtype=torch.int32, device=self._model.device)
        return torch.stack((starts, starts * self._cache.place.capacity))

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        self._written = held_scratch(self._at.device)  # the recording's products may lie there
        with torch.cuda.graph(graph):
            self._logits = self._step()
        self._graph = graph

    def _step(self) -> Tensor:
        several = self._cache.texts > 1
        self._cache.place.at = self._at + self._starts[1, :-1] if several else self._at
        looking = Looking((self._at + 1).int(), self._starts)
        with ExitStack() as stack:
            for part in self._fused:
                stack.enter_context(part.in_use())
            stack.enter_context(self._shared.in_use() if self._made else self._shared.watched())
            output = self._model(
                input_ids=self._tokens[:, None],
                position_ids=self._at[:, None],
                attention_mask=looking.as_mask(),
                use_cache=True,
                logits_to_keep=1,
                **self._past,
            )
        logits: Tensor = output.logits[:, -1].float()
        return logits
