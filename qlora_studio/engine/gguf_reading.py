"""What was written as GGUF, read again in a fresh process and asked what the adapter was asked."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import psutil
import torch
from tokenizers import Tokenizer
from torch import Tensor

from qlora_studio.config.child_environment import APP_FOLDER, child_environment
from qlora_studio.engine.compute_dtype import name_of
from qlora_studio.engine.gguf_reading_child import Asked, Found
from qlora_studio.engine.verifying import Talk
from qlora_studio.errors import StudioError
from qlora_studio.runs.space import in_gb

# Every kind of character that tokenizers cut apart in ways of their own.
_TEXTS = (
    "Plain words, 1,234.5 numbers and 20261126, it's THEY'LL we'd.",
    "  two spaces,\ttabs\n\n\nlines \r\n and an end   ",
    "ünïcödé Ελληνικά русский 漢字かな 한국어 العربية हिन्दी 😀👩‍💻",
    "def f(x):\n    return {'a': [x**2, 0x1F]}  # !?…—“quoted”",
)
_HELD_WHILE_LOADING = 2.2  # transformers has the numbers of a file twice while it puts them in their places
_LOOK_S = 0.5


@dataclass(frozen=True)
class ReadAgain:
    """What the file says; then float32 [compared, vocabulary] of each talk, as they come."""

    found: Found
    texts: list[str]
    log_probabilities: Iterator[Tensor]


def check_memory(parameters: int, dtype: torch.dtype) -> None:
    """Raises: StudioError where a GGUF file of so many numbers couldn't be read again."""
    needed = int(parameters * dtype.itemsize * _HELD_WHILE_LOADING)
    available = psutil.virtual_memory().available
    if needed > available:
        raise StudioError(
            f"Checking the GGUF file takes {in_gb(needed)} of memory; {in_gb(available)} are free.",
            hint="Close other programs, or export the merged model: it is checked a layer at a time.",
        )


@contextlib.contextmanager
def read_gguf_again(
    file: Path, talks: Sequence[Talk], texts: Sequence[str], dtype: torch.dtype, go_on: Callable[[], None]
) -> Iterator[ReadAgain]:
    """Within the block. texts: beside our own, to compare the tokenizers on.

    go_on: asked twice a second; raises where the export was stopped
    Raises: StudioError where the file can't be read.
    """
    asked = Asked(
        file=str(file),
        talks=[([*talk.prompt, *talk.reply], talk.compared) for talk in talks],
        texts=[*_TEXTS, *texts],
        dtype=name_of(dtype),
    )
    with asked_of("qlora_studio.engine.gguf_reading_child", msgspec.json.encode(asked), go_on) as answers:
        found = msgspec.json.decode(answers.line(), type=Found)
        yield ReadAgain(found, asked.texts, _each_talk(answers, talks, found.vocab))


@contextlib.contextmanager
def asked_of(module: str, request: bytes, go_on: Callable[[], None]) -> Iterator[Answers]:
    """What a process that runs this module answers to one line; it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=APP_FOLDER,
        env=child_environment(),
        start_new_session=True,
    )
    answers = Answers(process, go_on)
    try:
        answers.ask(request + b"\n")
        yield answers
    finally:
        process.kill()
        process.wait()
        answers.close()


def token_ids(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """By the model's own tokenizer."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [list(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]


def texts_of(folder: Path, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Prompts as text, with the names of special tokens."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.decode(list(prompt), skip_special_tokens=False) for prompt in prompts]


def _each_talk(answers: Answers, talks: Sequence[Talk], vocab: int) -> Iterator[Tensor]:
    for talk in talks:
        data = answers.exactly(talk.compared * vocab * 4)
        yield torch.from_numpy(np.frombuffer(data, np.float32).reshape(talk.compared, vocab).copy())


class Answers:
    """What the process says, taken from its pipe by a thread, so that whoever waits can be stopped."""

    def __init__(self, process: subprocess.Popen[bytes], go_on: Callable[[], None]) -> None:
        self._process = process
        self._go_on = go_on
        self._pieces: queue.Queue[bytes] = queue.Queue(maxsize=64)  # of 1 MB at most; empty: the end
        self._rest = bytearray()
        self._taker = threading.Thread(target=self._take, daemon=True)
        self._taker.start()

    def close(self) -> None:
        """Once the process is gone. What nobody asked for any more makes room for the end."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._pieces.get_nowait()
        self._taker.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def ask(self, line: bytes) -> None:
        """Without waiting for an answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # whoever reads the answer hears why
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def line(self) -> bytes:
        """The next one. Raises: StudioError where the process ended instead."""
        while (end := self._rest.find(b"\n")) < 0:
            self._rest += self._piece()
        return self._cut(end + 1)

    def exactly(self, size: int) -> bytes:
        """So many bytes. Raises: StudioError where the process ended before."""
        while len(self._rest) < size:
            self._rest += self._piece()
        return self._cut(size)

    def _cut(self, size: int) -> bytes:
        data = bytes(self._rest[:size])
        del self._rest[:size]
        return data

    def _piece(self) -> bytes:
        while True:
            self._go_on()
            with contextlib.suppress(queue.Empty):
                if piece := self._pieces.get(timeout=_LOOK_S):
                    return piece
                status = self._process.wait()
                raise StudioError(
                    f"The GGUF file can't be read again (exit status {status}); it was removed.",
                    hint="The engine's log has the details. Export the merged model instead.",
                )

    def _take(self) -> None:
        output = self._process.stdout
        assert output is not None
        while piece := output.read1(1 << 20):  # type: ignore[attr-defined]
            self._pieces.put(piece)
        self._pieces.put(b"")
