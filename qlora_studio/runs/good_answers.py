"""Answers that a person found good in a chat, as rows to train on: a JSON line each, in a file of their own.

The file is a data file as any other (`messages`), and nobody else's is ever written to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import (
    FOLDER_MODE,
    LONGEST_LINE,
    LineAppender,
    fsync_folder,
    read_file,
    write_file_durably,
)
from qlora_studio.runs.space import saving

_LARGEST = 64_000_000  # bytes


class AnswerTurn(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn. loss_weight: 0 where it was said on the way to the good answer, and isn't learned itself."""

    role: str  # system | user | assistant
    content: str
    loss_weight: float | None = None


class GoodAnswer(msgspec.Struct, frozen=True):
    """What was said up to a good answer, which is the last turn."""

    messages: tuple[AnswerTurn, ...]

    def line(self) -> bytes:
        """As the file holds it, without the end of the line."""
        return msgspec.json.encode(self)


def last_texts(lines: Sequence[bytes]) -> frozenset[str]:
    """The answers themselves; lines of another form have none."""
    texts: set[str] = set()
    for line in lines:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            texts.update(
                message.content for message in msgspec.json.decode(line, type=GoodAnswer).messages[-1:]
            )
    return frozenset(texts)


def read_good_answers(path: Path) -> list[bytes]:
    """The lines as they stand, also those that a person wrote into it. Raises: StudioError."""
    try:
        return [line for line in read_file(path, _LARGEST).split(b"\n") if line.strip()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StudioError(f"{path} can't be read: {error.strerror}.") from error


def add_good_answer(path: Path, answer: GoodAnswer) -> list[bytes]:
    """Unless it is in it already. Returns: all lines. Raises: StudioError."""
    line = answer.line()
    if len(line) >= LONGEST_LINE:
        raise StudioError(
            "This chat is too long for a row.", hint="Begin a new chat with what matters of it."
        )
    lines = read_good_answers(path)
    if line in lines:
        return lines
    with saving("the good answer", path):
        if not path.parent.exists():
            path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            fsync_folder(path.parent.parent)
        appender = LineAppender(path)
        try:
            appender.append(line + b"\n")
            appender.sync()
        finally:
            appender.close()
    return [*lines, line]


def remove_good_answer(path: Path, answer: GoodAnswer) -> list[bytes]:
    """All other lines stay as they are. Returns: these. Raises: StudioError."""
    line = answer.line()
    lines = read_good_answers(path)
    kept = [other for other in lines if other != line]
    if len(kept) < len(lines):
        with saving("the good answers", path):
            write_file_durably(path, b"".join(other + b"\n" for other in kept))
    return kept
