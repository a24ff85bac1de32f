"""What was written as GGUF, run by llama.cpp where xllamacpp is installed, on what the adapter was asked."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import msgspec
import torch

from qlora_studio.engine.gguf_reading import asked_of
from qlora_studio.engine.gguf_running_child import Asked, Said
from qlora_studio.engine.verifying import Reference, Talk
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import RunByLlamaCpp

PACKAGE = "xllamacpp"


def llama_cpp() -> str:
    """What runs GGUF files here, with its version; empty where nothing does."""
    try:
        return f"llama.cpp ({PACKAGE} {metadata.version(PACKAGE)})"
    except metadata.PackageNotFoundError:
        return ""


def run_gguf(file: Path, trained: Reference, go_on: Callable[[], None]) -> RunByLlamaCpp | str:
    """Beside the adapter as trained, teacher-forced on its replies; or why llama.cpp can't run the file.

    go_on: asked twice a second; raises where the export was stopped
    """
    asked = Asked(
        file=str(file),
        talks=[(list(talk.prompt), list(talk.reply), talk.compared) for talk in trained.talks],
        threads=torch.get_num_threads(),
    )
    found: list[Said] = []
    with asked_of("qlora_studio.engine.gguf_running_child", msgspec.json.encode(asked), go_on) as answers:
        try:
            for _ in trained.talks:
                found.append(msgspec.json.decode(answers.line(), type=Said))
                if found[-1].error:
                    return found[-1].error
        except StudioError as error:
            go_on()  # raises where that is the reason
            return error.message
    return _compared(trained, found)


def _compared(trained: Reference, found: list[Said]) -> RunByLlamaCpp:
    agree, drift, tokens, same = 0, 0.0, 0, 0
    for talk, log_probabilities, said in zip(trained.talks, trained.log_probabilities, found, strict=True):
        likeliest = log_probabilities.argmax(-1).tolist()
        agree += sum(one == other for one, other in zip(likeliest, said.likeliest, strict=True))
        tokens += talk.compared
        same += _replies(talk, said, likeliest)
        for place, (token, there) in enumerate(zip(likeliest, said.likely, strict=True)):
            here = float(log_probabilities[place, token])
            if there:
                drift = max(drift, abs(here - there.get(token, min(there.values()))))
    return RunByLlamaCpp(
        with_=llama_cpp(), token_agreement=agree / tokens, max_logprob_drift=drift, same_replies=same
    )


def _replies(talk: Talk, said: Said, likeliest: list[int]) -> bool:
    """Whether it writes the adapter's own reply, and ends it where the adapter does."""
    ends_alike = said.likeliest[-1] == likeliest[-1]
    return tuple(said.likeliest[:-1]) == talk.reply and ends_alike
