"""One token's way through a model, recorded once on a card and repeated without Python."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qlora_studio.engine.fixed_cache import FixedCache, Looking
from qlora_studio.engine.fused_gates import FusedGates
from qlora_studio.engine.fused_norms import FusedNorms
from qlora_studio.engine.fused_rotation import FusedRotation
from qlora_studio.engine.shared_inputs import SharedInputs

_PLAIN_STEPS = 2  # before the recording: what is compiled or allocated at a first call is there then


class RecordedStep:
    """A text's next token in, logits of the one after it out.

    Its first steps are made as they are written; on a card the third is recorded. Off a card none is.
    """

    def __init__(self, model: PreTrainedModel, cache: FixedCache, cache_argument: str) -> None:
        self._model = model
        self._cache = cache
        self._past: Mapping[str, Any] = {cache_argument: cache}
        self._token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        self._at = torch.zeros(1, dtype=torch.int64, device=model.device)
        self._starts = self._starts_in_cache()
        self._fused = (FusedNorms(model), FusedRotation(model), FusedGates(model))
        self._shared = SharedInputs(model)
        self._made = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits = torch.empty(0)

    def logits_after(self, token: int | Tensor) -> Tensor:
        """float32 [vocabulary], until the next call. The token is in the cache afterwards.

        token: or int64 [] on the device, where it may still be in the making
        """
        place = self._cache.place
        self._token.fill_(token)
        self._at.fill_(place.tokens)
        place.at = self._at
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
        place.tokens += 1
        return self._logits

    def forget(self) -> None:
        """What was recorded: the cache lies elsewhere now."""
        self._graph, self._made, self._starts = None, 0, self._starts_in_cache()

    def _starts_in_cache(self) -> Tensor:
        capacity = self._cache.place.capacity
        return torch.tensor([[0, 1], [0, capacity]], dtype=torch.int32, device=self._model.device)

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._step()
        self._graph = graph

    def _step(self) -> Tensor:
        looking = Looking((self._at + 1).int(), self._starts)
        with ExitStack() as stack:
            for part in self._fused:
                stack.enter_context(part.in_use())
            stack.enter_context(self._shared.in_use() if self._made else self._shared.watched())
            output = self._model(
                input_ids=self._token,
                position_ids=self._at[None],
                attention_mask=looking.as_mask(),
                use_cache=True,
                logits_to_keep=1,
                **self._past,
            )
        logits: Tensor = output.logits[0, -1].float()
        return logits
