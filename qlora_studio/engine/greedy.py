"""The most likely continuation of a prompt, token by token: at checkpoints, in checks, for the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence

from transformers import PreTrainedModel

from qlora_studio.engine.continuation import continuation_of


def continue_greedily(
    model: PreTrainedModel,
    prompt: Sequence[int],
    max_tokens: int,
    stop_ids: Collection[int],
    given_up: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Token ids after `prompt`, without the one that ends the reply. given_up: asked before each token."""
    text = continuation_of(model)
    reply: list[int] = []
    ids: Sequence[int] = prompt
    while len(reply) < max_tokens and not given_up():
        token = int(text.extend(ids).argmax())
        if token in stop_ids:
            break
        reply.append(token)
        ids = [token]
    return reply


def continue_together(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    stop_ids: Collection[int],
) -> Generator[int, None, list[list[int]]]:
    """As `continue_greedily`, for several prompts at once: a step takes hardly longer than for one.

    Says after each step how many tokens the longest reply has; whoever listens may stop there.
    """
    texts = continuation_of(model)
    replies: list[list[int]] = [[] for _ in prompts]
    open_replies = set(range(len(prompts)))
    ids: Sequence[Sequence[int]] = prompts
    for written in range(1, max_tokens + 1):
        tokens: list[int] = texts.extend_each(ids).argmax(-1).tolist()
        open_replies -= {text for text in open_replies if tokens[text] in stop_ids}
        for text in open_replies:
            replies[text].append(tokens[text])
        if not open_replies:
            break
        ids = [[token] for token in tokens]
        yield written
    return replies
