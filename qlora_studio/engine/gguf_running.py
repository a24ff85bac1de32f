"""What was written as GGUF, run by llama.cpp where xllamacpp is installed, on what the adapter was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import torch

from qlora_studio.engine.gguf_reading import asked_of
from qlora_studio.engine.gguf_running_child import Asked, Said
from qlora_studio.engine.verifying import Parting, Reference, partings
from qlora_studio.errors import StudioError

PACKAGE = "xllamacpp"


@dataclass(frozen=True)
class ByLlamaCpp:
    """What llama.cpp finds likely, teacher-forced on the replies of the adapter as trained.

    drift: nats, at the adapter's likeliest tokens; a token that is none of the 40 likeliest there counts as
           the least likely of these. Not of tokens that end in half a letter
    """

    agreement: float
    drift: float
    partings: list[Parting]


def llama_cpp() -> str:
    """What runs GGUF files here, with its version; empty where nothing does."""
    try:
        return f"llama.cpp ({PACKAGE} {metadata.version(PACKAGE)})"
    except metadata.PackageNotFoundError:
        return ""


def run_gguf(file: Path, trained: Reference, go_on: Callable[[], None]) -> ByLlamaCpp | str:
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


def _compared(trained: Reference, found: list[Said]) -> ByLlamaCpp:
    agree, drift, tokens = 0, 0.0, 0
    for log_probabilities, said in zip(trained.log_probabilities, found, strict=True):
        likeliest = log_probabilities.argmax(-1).tolist()
        agree += sum(one == other for one, other in zip(likeliest, said.likeliest, strict=True))
        tokens += len(likeliest)
        for place, (token, there) in enumerate(zip(likeliest, said.likely, strict=True)):
            here = float(log_probabilities[place, token])
            if there:
                drift = max(drift, abs(here - there.get(token, min(there.values()))))
    return ByLlamaCpp(agree / tokens, drift, partings(trained, [said.likeliest for said in found]))
