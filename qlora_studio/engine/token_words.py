"""Where an exported file writes something else than the adapter, in the tokens' own texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from qlora_studio.config.run_config import SHAPE_PREFIX
from qlora_studio.data.tokenizer import ModelTokenizer, load_tokenizer
from qlora_studio.engine.loading import BaseModel
from qlora_studio.engine.verifying import Parting
from qlora_studio.plain_text import visible_line
from qlora_studio.protocol.events import FirstDifference

_MOST_NATS = 20.0  # e^20: what is so much likelier needs no figure


class TokenWords:
    """By the tokenizer of a model's folder; a shape has none, and its tokens are numbers."""

    def __init__(self, base: BaseModel) -> None:
        self._source = base.source
        self._stop_ids = base.stop_ids

    def of(self, partings: Sequence[Parting]) -> FirstDifference | None:
        """The one that weighs most: of which the adapter was surest. None: there is no difference."""
        furthest = max(partings, key=lambda parting: parting.nats, default=None)
        if furthest is None:
            return None
        return FirstDifference(
            prompt=furthest.talk + 1,
            token=furthest.place + 1,
            wanted=self._text(furthest.wanted),
            found=self._text(furthest.found),
            times_likelier=math.exp(min(furthest.nats, _MOST_NATS)),
        )

    def _text(self, token: int) -> str:
        if token in self._stop_ids:
            return "the end"
        text = self._tokenizer.decode([token]) if self._tokenizer else ""
        return f'"{visible_line(text)}"' if text else f"token {token}"

    @cached_property
    def _tokenizer(self) -> ModelTokenizer | None:
        return None if self._source.startswith(SHAPE_PREFIX) else load_tokenizer(Path(self._source))
