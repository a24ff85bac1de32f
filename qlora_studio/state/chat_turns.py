"""What a chat is made of: messages, the replies to each, and the adapters that can give them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import msgspec

from qlora_studio.config.run_config import SHAPE_PREFIX, ModelConfig
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.folder import Run
from qlora_studio.runs.history import RunSummary

LEFT, RIGHT = 0, 1


class Writing(Enum):
    """How far a reply is."""

    WAITS = "waits"
    LOADING = "loading"
    WRITING = "writing"
    DONE = "done"
    FAILED = "failed"


@dataclass(eq=False)
class Reply:
    """One side's answer to one message.

    adapter: its folder; None: the base answers
    attempt: 0, and one more each time it is asked again: another seed, so another answer
    words:   what is going on before the first token
    """

    side: int
    adapter: str | None = None
    attempt: int = 0
    words: str = ""
    state: Writing = Writing.WAITS
    text: str = ""
    tokens: int = 0
    tokens_per_second: float = 0.0
    first_token_seconds: float = 0.0
    ended: str = ""  # end | length | stopped | context
    problem: Problem | None = None


@dataclass(eq=False)
class Turn:
    """A message of the person's, and the replies to it.

    before: the turn it was said after
    after:  what was said after it; each begins a branch
    chosen: the branch that is looked at
    """

    text: str
    replies: list[Reply] = field(default_factory=list)
    before: Turn | None = None
    after: list[Turn] = field(default_factory=list)
    chosen: Turn | None = None

    def reply(self, side: int) -> Reply | None:
        """Of one side, where it was asked."""
        return next((reply for reply in self.replies if reply.side == side), None)

    def reply_before(self, later: Reply) -> Reply | None:
        """What was answered here by whoever answers `later`, or else in its place."""
        own = (reply for reply in self.replies if reply.adapter == later.adapter)
        return next(own, self.reply(later.side)) or (self.replies[0] if self.replies else None)


@dataclass(frozen=True)
class Tuned:
    """An adapter that can be chosen, or a model of which a run trained all weights.

    folder:          of the adapter, or of that model
    model:           below the adapter, or that model
    template_sha256: of the template it was trained with
    """

    name: str
    folder: Path
    model: ModelConfig
    run: Run
    template_sha256: str

    @property
    def is_model(self) -> bool:
        """It is talked with alone: its base is another model."""
        return self.model.path == str(self.folder)


def tuned_runs(summaries: list[RunSummary]) -> list[Tuned]:
    """The finished adapters and models, the newest first."""
    found = []
    for summary in summaries:
        run = summary.run
        shape_alone = run is not None and run.record.config.model.path.startswith(SHAPE_PREFIX)
        if run is None or shape_alone:
            continue
        model, sha256 = run.record.config.model, run.record.hashes.template
        if run.adapter is not None:
            found.append(Tuned(run.name, run.adapter, model, run, sha256))
        elif run.model is not None:
            own = msgspec.structs.replace(model, path=str(run.model), quantization="none")
            found.append(Tuned(run.name, run.model, own, run, sha256))
    return found
