"""A GGUF file in a process of its own, run by llama.cpp: what whoever downloads it will see.

One line of JSON comes in (`Asked`), one goes out for each talk (`Said`), or one with an error. The server in
llama.cpp is asked without a network: it listens at a socket in a folder of ours (its name must end in .sock).
The end of the input is the end of the process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from typing import Any

import msgspec

_LIKELY = 40  # tokens whose log-probability is asked for at each place
_ROOM = 8  # tokens of context beyond the longest talk


class Asked(msgspec.Struct, frozen=True):
    """talks: token ids of prompt and reply, and how many of their last predictions are wanted."""

    file: str
    talks: list[tuple[list[int], list[int], int]]
    threads: int


class Said(msgspec.Struct, frozen=True):
    """Of one talk, teacher-forced: the likeliest token at each place, and the log-probabilities of the likely
    ones there, by token. error: why nothing was said."""

    likeliest: list[int] = []
    likely: list[dict[int, float]] = []  # empty where llama.cpp doesn't tell them
    error: str = ""


def main() -> int:
    """`python -m qlora_studio.engine.gguf_running_child`"""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.umask(0o077)
    asked = msgspec.json.decode(sys.stdin.buffer.readline(), type=Asked)
    threading.Thread(target=_end_with_input, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="llama-cpp-") as folder:
        try:
            server = _server(asked, f"{folder}/run.sock")
            for prompt, reply, compared in asked.talks:
                out.write(msgspec.json.encode(_forced(server, prompt, reply, compared)) + b"\n")
                out.flush()
        except RuntimeError as error:
            out.write(msgspec.json.encode(Said(error=str(error))) + b"\n")
            out.flush()
    return 0


def _server(asked: Asked, socket: str) -> Any:
    """Raises: RuntimeError where llama.cpp can't load the file."""
    import xllamacpp  # type: ignore[import-untyped, import-not-found, unused-ignore]

    parameters = xllamacpp.CommonParams()
    parameters.model.path = asked.file
    parameters.n_ctx = max(len(prompt) + compared for prompt, _, compared in asked.talks) + _ROOM
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = asked.threads
    parameters.hostnames = [socket]
    parameters.warmup = False
    return xllamacpp.Server(parameters)


def _forced(server: Any, prompt: list[int], reply: list[int], compared: int) -> Said:
    """It writes as long as it agrees with `reply`, and is put right where it doesn't.

    Raises: RuntimeError where it writes nothing.
    """
    likeliest: list[int] = []
    likely: list[dict[int, float]] = []
    while len(likeliest) < compared:
        request = {
            "prompt": [*prompt, *reply[: len(likeliest)]],
            "n_predict": compared - len(likeliest),
            "n_probs": _LIKELY,
            "temperature": 0.0,
            "cache_prompt": True,
            "return_tokens": True,
            "verbose": True,  # with all tokens: the others leave out those that end in half a letter
        }
        answer = server.handle_completions(request)
        if not answer["__verbose"]["tokens"]:
            raise RuntimeError("It writes nothing.")
        told = answer["choices"][0]["logprobs"]["content"]
        for token in answer["__verbose"]["tokens"]:
            place = len(likeliest)
            likeliest.append(token)
            is_told = bool(told) and told[0]["id"] == token
            likely.append(
                {one["id"]: one["logprob"] for one in told.pop(0)["top_logprobs"]} if is_told else {}
            )
            if place < len(reply) and token != reply[place]:
                break
    return Said(likeliest, likely)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
