"""The user's own prompts, answered at a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from qlora_studio.engine.greedy import continue_greedily
from qlora_studio.engine.prepared_run import PreparedRun
from qlora_studio.protocol.events import SampleReady


def sample_replies(run: PreparedRun, given_up: Callable[[], bool]) -> Iterator[SampleReady]:
    """The most likely reply to each prompt, by the adapter as it stands. Changes nothing of the run.

    given_up: asked before each token; what isn't whole by then is not told
    """
    info = run.rows.info
    for index, sample in enumerate(info.samples):
        reply = continue_greedily(run.model, sample.ids, sample.max_tokens, info.stop_ids, given_up)
        if given_up():
            return
        yield SampleReady(
            step=run.position.step,
            index=index,
            prompt=sample.prompt,
            reply=run.decode(reply),
            tokens=len(reply),
            time=time.time(),
        )
