"""The command line: one subcommand a job, exit statuses that scripts may rely on."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from qlora_studio import __version__
from qlora_studio.cli.output import print_error, print_json
from qlora_studio.errors import StudioError

DONE, BUG, REFUSED, STOPPED = 0, 1, 2, 130

_KINDS = {"int": "a whole number", "float": "a number"}
_PLAIN: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"argument (?P<name>\S+): invalid choice: '(?P<said>.*)' \(choose from (?P<known>.*)\)"),
        lambda found: (
            f"{found['name']} is {found['said']!r}; it must be one of {found['known'].replace(chr(39), '')}."
        ),
    ),
    (
        re.compile(r"argument (?P<name>\S+): invalid (?P<kind>int|float) value: '(?P<said>.*)'"),
        lambda found: f"{found['name']} is {found['said']!r}; it must be {_KINDS[found['kind']]}.",
    ),
    (
        re.compile(r"argument (?P<name>\S+): expected (?:one|at least one) argument"),
        lambda found: f"{found['name']} needs a value.",
    ),
    (
        re.compile(r"the following arguments are required: (?P<names>.*)"),
        lambda found: f"Missing: {found['names']}.",
    ),
    (re.compile(r"unrecognized arguments: (?P<said>.*)"), lambda found: f"There is no {found['said']} here."),
)


def build_parser() -> argparse.ArgumentParser:
    """All subcommands."""
    from qlora_studio.cli import (
        arena,
        chatting,
        doctor,
        estimating,
        evaluating,
        exporting,
        lab,
        reading,
        recipes,
        runs,
        sweep,
        training,
    )

    parser = _Parser(
        prog="qlora-studio",
        description="QLoRA finetuning on your own workstation. Without a command: the window.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--page", metavar="NAME", help="open the window on this page")
    parser.add_argument("--run", metavar="FOLDER", dest="open_run", help="open the window on this run")
    subparsers = parser.add_subparsers(metavar="command")
    modules = (
        training,
        recipes,
        sweep,
        reading,
        estimating,
        runs,
        chatting,
        evaluating,
        arena,
        exporting,
        lab,
        doctor,
    )
    for module in modules:
        module.add_commands(subparsers)
    return parser


class _Parser(argparse.ArgumentParser):
    """Refuses words as everything else is refused; of the subcommands' parsers too."""

    def error(self, message: str) -> NoReturn:
        raise StudioError(_in_plain_words(message), hint=f"'{self.prog} --help' says more.")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """What was asked for. Exits where that can't be understood, or only help was wanted."""
    try:
        return build_parser().parse_args(words)
    except StudioError as error:
        _refuse(error, "--json" in words)
        raise SystemExit(REFUSED) from None


def run_command(arguments: argparse.Namespace) -> int:
    """The exit status. Errors a person can act on are printed, never raised."""
    os.umask(0o077)  # run folders and logs are private (S12)
    as_json = bool(getattr(arguments, "json", False))
    try:
        with _ended_by_sigterm():
            status: int = arguments.run(arguments)
        return status
    except StudioError as error:
        if not getattr(error, "told", False):
            _refuse(error, as_json)
        return REFUSED
    except KeyboardInterrupt:
        print_error("stopped")
        return STOPPED
    except BrokenPipeError:  # what we print to has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM is what Ctrl+C is: children are ended, and what they began is cleared away."""

    def on_terminate(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_plain_words(message: str) -> str:
    """What argparse says, said as our own refusals are; what it may say otherwise one day stays as it is."""
    for pattern, words in _PLAIN:
        if found := pattern.fullmatch(message):
            return words(found)
    return f"{message[:1].upper()}{message[1:]}."


def _refuse(error: StudioError, as_json: bool) -> None:
    if as_json:
        print_json({"error": {"message": error.message, "hint": error.hint}})
    else:
        print_error(f"error: {error}")
