"""What a command prints: JSON for scripts, plain text for people; nothing from outside unescaped."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qlora_studio.plain_text import visible_text

_STDERR = 2


def print_json(value: Any) -> None:
    """One object on one line, ASCII only: whatever is in it can't steer a terminal."""
    print(json.dumps(msgspec.to_builtins(value), ensure_ascii=True), flush=True)


def print_text(text: str) -> None:
    """A line or more for a person."""
    print(visible_text(text, longest=1_000_000), flush=True)


def print_error(text: str) -> None:
    """To stderr."""
    print(visible_text(text), file=sys.stderr, flush=True)


def print_at_once(text: str) -> None:
    """To stderr, in the middle of whatever is being printed: a signal's handler may call it."""
    below = "\n" if os.isatty(_STDERR) else ""  # a bar
    with suppress(OSError):
        os.write(_STDERR, f"{below}{text}\n".encode())


def in_gib(count: int) -> str:
    """Memory, as the driver counts it."""
    return f"{count / 2**30:.1f} GiB"


class Told:
    """Progress on stderr in words: a bar in a terminal, nothing where stderr is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, count="", visible=False)
        self._done, self._total = 0, 0

    @property
    def shows_bars(self) -> bool:
        """False where stderr is no terminal, or nothing is to be shown."""
        return not self._progress.disable

    def __enter__(self) -> Told:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, words: str, done: int, total: int) -> None:
        count = f"{done:,} of {total:,}" if total else (f"{done:,}" if done else "")
        if total != self._total or done < self._done:
            self._progress.reset(self._task, completed=done)  # another thing: its speed is its own
        self._done, self._total = done, total
        self._progress.update(
            self._task,
            description=visible_text(words, 120),
            completed=done,
            total=total or None,
            count=count,
            visible=True,
        )
