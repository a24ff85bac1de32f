"""The most likely continuation of a prompt, token by token: how samples are answered at a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from transformers import PreTrainedModel

from qlora_studio.engine.continuation import Continuation


def continue_greedily(
    model: PreTrainedModel,
    prompt: Sequence[int],
    max_tokens: int,
    stop_ids: Collection[int],
    given_up: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Token ids after `prompt`, without the one that ends the reply. given_up: asked before each token."""
    text = Continuation(model)
    reply: list[int] = []
    ids: Sequence[int] = prompt
    while len(reply) < max_tokens and not given_up():
        token = int(text.extend(ids).argmax())
        if token in stop_ids:
            break
        reply.append(token)
        ids = [token]
    return reply
